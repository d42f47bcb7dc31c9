package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/netbox-events/netbox-event-operator/internal/cli/ui"
)

const uiExample = `  # Print a URL, and serve it until Ctrl-C
  kubectl netbox ui -n netbox

  # Open it in the browser
  kubectl netbox ui -n netbox --open`

func newUICommand(p *plugin) *cobra.Command {
	var port uint16
	var opens bool
	command := &cobra.Command{
		Use:   "ui",
		Short: "Show events, rules and sources in a browser",
		Long: "Show the events of a namespace with a live tail, one event with its changes and its trace, rules, sources, and what is wrong, " +
			"in a browser, and replay events. The server is this command, on the loopback interface of this machine; it acts with your rights " +
			"for everyone who has the URL with its token.",
		Example: uiExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return p.serveUI(command.Context(), port, opens)
		},
	}
	command.Flags().Uint16Var(&port, "port", 0, "port on 127.0.0.1; 0 for a free one")
	command.Flags().BoolVar(&opens, "open", false, "open the URL in the browser; other users of this machine may see it among the processes")
	return command
}

// uiTimeout bounds how long the headers of a request may take.
const uiTimeout = 5 * time.Second

// serveUI prints the URL of the page, and serves it until ctx is done.
func (p *plugin) serveUI(ctx context.Context, port uint16, opens bool) error {
	api, namespace, err := p.cluster()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("%w; choose another --port, or none", err)
	}
	token := rand.Text()
	server := &http.Server{
		Handler:           ui.Handler(token, (&uiAPI{p, api, namespace}).handler()),
		ReadHeaderTimeout: uiTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends requests to the API server
	}
	url := fmt.Sprintf("http://%s/#token=%s", listener.Addr(), token)
	fmt.Fprintln(p.Out, url)
	fmt.Fprintln(p.ErrOut, "Open this URL in a browser. Ctrl-C stops the server.")
	if opens {
		if err := openBrowser(ctx, url); err != nil {
			fmt.Fprintln(p.ErrOut, "No browser was opened:", err)
		}
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// openBrowser opens a URL as the user's desktop does.
func openBrowser(ctx context.Context, url string) error {
	name, args := "xdg-open", []string{url}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
	}
	command := exec.CommandContext(context.WithoutCancel(ctx), name, args...) //nolint:gosec // the URL is of this server
	if err := command.Start(); err != nil {
		return err
	}
	go func() { _ = command.Wait() }() // it may be the browser itself, and run on
	return nil
}
