package cli_test

import (
	"github.com/netbox-events/netbox-event-operator/internal/cli"
	"github.com/netbox-events/netbox-event-operator/test/controlplane"
)

func init() { cli.SetPlane(func() *controlplane.ControlPlane { return plane }) }
