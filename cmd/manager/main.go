// Command manager is netbox-event-operator: it receives NetBox's webhooks, stores them as NetBoxEvents, and processes them.
package main

import (
	"flag"
	"fmt"
	"os"
	_ "time/tzdata" // CEL's timestamps take the names of time zones, and the image holds nothing but this binary

	"go.uber.org/zap/zapcore"
	_ "golang.org/x/crypto/x509roots/fallback" // for http actions: the roots of Mozilla where the system has none, as in the image
	"golang.org/x/term"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/netbox-events/netbox-event-operator/internal/app"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func run() error {
	var options app.Options
	// The stack of an error says nothing of a sink that is down, and there may be many.
	logging := zap.Options{TimeEncoder: zapcore.RFC3339NanoTimeEncoder, StacktraceLevel: zapcore.PanicLevel}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		zap.ConsoleEncoder()(&logging) // the default; --zap-encoder has the last word
	}
	options.Bind(flag.CommandLine)
	logging.BindFlags(flag.CommandLine)
	version := flag.Bool("version", false, "print the version, commit and Go version, and end")
	flag.Parse()
	if *version {
		fmt.Println(app.ThisBuild())
		return nil
	}
	if flag.Arg(0) == "crds" {
		return runCRDs(flag.Args()[1:])
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is no flag; see --help", flag.Arg(0))
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
