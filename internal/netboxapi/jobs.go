package netboxapi

import (
	"context"
	"net/http"
)

// Queue is a queue of NetBox's background jobs. Webhooks are sent by those in the queue that is called default, unless NetBox is configured
// otherwise.
type Queue struct {
	// Name is default, high or low, or a plugin's.
	Name string `json:"name"`
	// Waiting and Failed are numbers of jobs, Workers the number of running workers that serve the queue.
	Waiting int64 `json:"jobs"`
	Failed  int64 `json:"failed_jobs"`
	Workers int64 `json:"workers"`
}

// Queues returns the queues with the numbers of their jobs. Only a superuser's token may ask for them: the kind of the error is
// KindForbidden for others, and KindUnsupported before NetBox 4.3. NetBox's API does not list failed jobs, nor tell their errors.
func (c *Client) Queues(ctx context.Context) ([]Queue, error) {
	status, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	if status.Flavor != NetBox || !status.AtLeast(4, 3) {
		return nil, c.unsupported(status, "queues in its API, which came with NetBox 4.3")
	}
	var page struct {
		Results []Queue `json:"results"`
	}
	if err := c.call(ctx, request{method: http.MethodGet, path: "/api/core/background-queues/"}, &page); err != nil {
		return nil, err
	}
	return page.Results, nil
}
