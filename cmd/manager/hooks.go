package main

import (
	"errors"
	"os"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/crd"
	"github.com/netbox-events/netbox-event-operator/internal/uninstall"
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

// runDeleteSources runs `manager delete-sources NAMESPACE/NAME...`, for the chart's hook.
func runDeleteSources(args []string) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	return uninstall.Sources(ctrl.SetupSignalHandler(), app.WithoutProxy(config), args, os.Stdout)
}
