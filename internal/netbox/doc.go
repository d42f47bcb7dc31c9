// Package netbox implements the wire format of NetBox's and Nautobot's webhooks. It verifies the signature of a body and decodes the body
// of any version into one normalised event.
//
// It is pure: bytes and keys in, values out. It may not import HTTP, Kubernetes or the clock.
package netbox
