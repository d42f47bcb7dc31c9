// Command manager is netbox-event-operator: it receives NetBox's webhooks, stores them as NetBoxEvents, and processes them.
package main

import (
	"flag"
	"fmt"
	"os"
	_ "time/tzdata" // CEL's timestamps take the names of time zones, and the image holds nothing but this binary

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	uberzap "go.uber.org/zap"
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

// mostVerbose is as much as is logged. At one level more, client-go logs what the API server answers, Secrets too.
const mostVerbose = zapcore.Level(-7)

// newLogger makes a logger that writes every line, up to mostVerbose. Controller-runtime's drops all but each hundredth of those over 100 a
// second that have one message, and every event has the same.
func newLogger(options *zap.Options) logr.Logger {
	var unsampled zapcore.Core
	keep := uberzap.WrapCore(func(core zapcore.Core) zapcore.Core {
		unsampled = core
		if core.Enabled(mostVerbose) {
			unsampled, _ = zapcore.NewIncreaseLevelCore(core, mostVerbose) // it fails where the core logs less than that
		}
		return core
	})
	restore := uberzap.WrapCore(func(zapcore.Core) zapcore.Core { return unsampled })
	return zapr.NewLogger(zap.NewRaw(zap.UseFlagOptions(options), zap.RawZapOpts(keep)).WithOptions(restore))
}
