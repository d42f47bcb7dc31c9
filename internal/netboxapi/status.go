package netboxapi

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
)

// Flavor is the product that answers: NetBox or its fork Nautobot.
type Flavor string

// The flavors.
const (
	NetBox   Flavor = "NetBox"
	Nautobot Flavor = "Nautobot"
)

// Status is what a NetBox says about itself.
type Status struct {
	// Version is the version as NetBox writes it, for example 4.7.3, 4.8.0-beta1 or 4.6.4-Docker-5.0.1.
	Version string
	// Flavor is the product.
	Flavor       Flavor
	major, minor int
}

// AtLeast reports whether the version is that one or later. A prerelease counts as the release.
func (s Status) AtLeast(major, minor int) bool {
	return s.major > major || (s.major == major && s.minor >= minor)
}

// Status asks NetBox for its version. Any valid token may do that.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var answer struct {
		NetBox   string `json:"netbox-version"`
		Nautobot string `json:"nautobot-version"`
	}
	r := request{method: http.MethodGet, path: "/api/status/"}
	if err := c.call(ctx, r, &answer); err != nil {
		return Status{}, err
	}
	status := Status{Version: answer.NetBox, Flavor: NetBox}
	if answer.NetBox == "" {
		status = Status{Version: answer.Nautobot, Flavor: Nautobot}
	}
	var ok bool
	if status.major, status.minor, ok = parseVersion(status.Version); !ok {
		return Status{}, c.fail(&Error{
			Kind: KindMalformed, Status: http.StatusOK,
			Message: "the answer of /api/status/ has no version of NetBox or Nautobot that is understood: " + c.quote(r, status.Version),
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = &status
	return status, nil
}

// known returns the status that NetBox gave last, and asks for it if there is none.
func (c *Client) known(ctx context.Context) (Status, error) {
	c.mu.Lock()
	status := c.status
	c.mu.Unlock()
	if status != nil {
		return *status, nil
	}
	return c.Status(ctx)
}

// unsupported returns the error for what a version lacks.
func (c *Client) unsupported(status Status, what string) error {
	return c.fail(&Error{Kind: KindUnsupported, Message: fmt.Sprintf("%s %.40q has no %s", status.Flavor, status.Version, what)})
}

var versionPattern = regexp.MustCompile(`^v?([0-9]{1,4})\.([0-9]{1,4})(?:[^0-9]|$)`)

func parseVersion(text string) (major, minor int, ok bool) {
	parts := versionPattern.FindStringSubmatch(text)
	if parts == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(parts[1])
	minor, _ = strconv.Atoi(parts[2])
	return major, minor, true
}
