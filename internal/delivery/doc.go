// Package delivery has the states of an event's rules and actions, and of the sinks that they go to, and the transitions between them.
//
// It is pure: the status and the time are arguments, and nothing waits. It must not import a Kubernetes client.
package delivery
