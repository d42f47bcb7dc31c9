// Package rule compiles the expressions and templates of a NetBoxEventRule, and the filter of a NetBoxSource, and evaluates them on events.
// Expressions are CEL with the libraries that Kubernetes adds to it.
//
// It is pure: it depends on the API types, but neither on the API server nor on a clock.
package rule
