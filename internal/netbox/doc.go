// Package netbox knows what NetBox and Nautobot put on the wire. It verifies the signature of a webhook's body and decodes
// the body into one normalised event, whatever version sent it.
//
// It is pure: bytes and keys come in, values go out. It may not know HTTP, Kubernetes or the clock.
package netbox
