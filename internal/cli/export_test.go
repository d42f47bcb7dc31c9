package cli

import "github.com/netbox-events/netbox-event-operator/test/controlplane"

// plane returns the control plane of all tests of this directory, which those outside of the package start.
var plane func() *controlplane.ControlPlane

// SetPlane sets plane.
func SetPlane(of func() *controlplane.ControlPlane) { plane = of }
