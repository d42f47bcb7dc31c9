// Package delivery implements the state machines of an event's rules and actions, and of the sinks that they deliver to.
//
// It is pure: the status and the time are arguments, and no function blocks. It must not import a Kubernetes client.
package delivery
