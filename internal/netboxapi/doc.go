// Package netboxapi is a client of the REST API of NetBox 3.7 to 4.7, as far as this operator needs it: webhooks and event rules, object
// types, the change log, and look-ups. The change log can also be read from NetBox 2.11 to 3.6 and from Nautobot 2.0 or later.
//
// It trusts no answer: answers are bounded, redirects are not followed, no request goes to a URL of an answer, and no error contains the
// token. It may not import Kubernetes: its caller gives it a transport.
package netboxapi
