package main

import (
	"errors"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/crd"
)

// runCRDs runs `manager crds apply DIR` and `manager crds delete DIR`, for the chart's hooks.
func runCRDs(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: manager crds apply|delete DIRECTORY")
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	return crd.Run(ctrl.SetupSignalHandler(), app.WithoutProxy(config), args[0], os.DirFS(args[1]), os.Stdout)
}
