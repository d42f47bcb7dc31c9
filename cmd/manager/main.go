// Command manager is netbox-event-operator: it receives NetBox's webhooks, stores them as NetBoxEvents, and processes them.
package main

import (
	"flag"
	"fmt"
	"os"
	_ "time/tzdata" // CEL's timestamps accept names of time zones, and the image contains only this binary

	"go.uber.org/zap/zapcore"
	_ "golang.org/x/crypto/x509roots/fallback" // for http actions: Mozilla's roots if the system has none, as in the image
	"golang.org/x/term"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func run() error {
	var options app.Options
	// The stack trace of an error says nothing about a sink that is down, and such errors can be frequent.
	logging := zap.Options{TimeEncoder: zapcore.RFC3339NanoTimeEncoder, StacktraceLevel: zapcore.PanicLevel}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		zap.ConsoleEncoder()(&logging) // the default; --zap-encoder overrides it
	}
	options.Bind(flag.CommandLine)
	logging.BindFlags(flag.CommandLine)
	showsVersion := flag.Bool("version", false, "print the version, commit and Go version, and exit")
	flag.Parse()
	if *showsVersion {
		fmt.Println(version.ThisBuild().Of("netbox-event-operator"))
		return nil
	}
	switch flag.Arg(0) {
	case "crds":
		return runCRDs(flag.Args()[1:])
	case "delete-sources":
		return runDeleteSources(flag.Args()[1:])
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see --help", flag.Arg(0))
	}
	log := newLogger(&logging)
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	return app.Run(ctrl.SetupSignalHandler(), config, options, log)
}
