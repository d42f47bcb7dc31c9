package netboxapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	graphQLPath = "/graphql/"
	// maxObjects is the most objects to ask for at once: their ids are in the URL.
	maxObjects = 50
)

// Objects returns objects as they are now, by id. What is not there, or the token may not see, is missing. The endpoint is the path of the
// list, for example /api/dcim/sites/.
func (c *Client) Objects(ctx context.Context, endpoint string, ids []string) (map[string]json.RawMessage, error) {
	objects := make(map[string]json.RawMessage, len(ids))
	for len(ids) > 0 {
		batch := ids[:min(len(ids), maxObjects)]
		ids = ids[len(batch):]
		if err := c.batch(ctx, endpoint, batch, objects); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// batch adds the objects of some ids. It asks for half of them where they do not fit into one answer.
func (c *Client) batch(ctx context.Context, endpoint string, ids []string, objects map[string]json.RawMessage) error {
	if len(ids) == 1 {
		return c.one(ctx, endpoint, ids[0], objects)
	}
	var page struct {
		Next    *string           `json:"next"`
		Results []json.RawMessage `json:"results"`
	}
	r := request{method: http.MethodGet, path: endpoint, query: url.Values{"id": ids, "limit": {strconv.Itoa(len(ids))}}}
	err := c.call(ctx, r, &page)
	if KindOf(err) == KindTooLarge || (err == nil && page.Next != nil) {
		half := len(ids) / 2
		if err := c.batch(ctx, endpoint, ids[:half], objects); err != nil {
			return err
		}
		return c.batch(ctx, endpoint, ids[half:], objects)
	}
	if err != nil {
		return err
	}
	for _, object := range page.Results {
		var identified struct {
			ID json.RawMessage `json:"id"`
		}
		if err := json.Unmarshal(object, &identified); err != nil {
			return c.malformed("an object of a list is no JSON object")
		}
		id, err := scalar(identified.ID)
		if err != nil {
			return c.malformed("an object of a list: " + err.Error())
		}
		objects[id] = object
	}
	return nil
}

func (c *Client) one(ctx context.Context, endpoint, id string, objects map[string]json.RawMessage) error {
	var object json.RawMessage
	path := strings.TrimSuffix(endpoint, "/") + "/" + url.PathEscape(id) + "/"
	err := c.call(ctx, request{method: http.MethodGet, path: path}, &object)
	if KindOf(err) == KindNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	objects[id] = object
	return nil
}

// Get returns the JSON at a path and query of the API, for example /api/dcim/devices/?name=leaf1: at most 1 MiB. It returns nil for what is
// not there, or the token may not see.
func (c *Client) Get(ctx context.Context, pathAndQuery string) (json.RawMessage, error) {
	path, query, _ := strings.Cut(pathAndQuery, "?")
	values, err := url.ParseQuery(query)
	if err != nil || strings.Contains(pathAndQuery, "#") {
		return nil, c.fail(&Error{Kind: KindInvalid, Message: "the path must be like /api/dcim/devices/?name=leaf1, with an escaped query"})
	}
	var body json.RawMessage
	err = c.call(ctx, request{method: http.MethodGet, path: path, query: values}, &body)
	if KindOf(err) == KindNotFound {
		return nil, nil
	}
	return body, err
}

// GraphQL returns the data of a query in GraphQL: at most 1 MiB. An error in the answer is an error, also if there are data.
func (c *Client) GraphQL(ctx context.Context, query string, variables map[string]any) (json.RawMessage, error) {
	status, err := c.known(ctx)
	if err != nil {
		return nil, err
	}
	r := request{method: http.MethodPost, path: graphQLPath, body: map[string]any{"query": query, "variables": variables}}
	if status.Flavor == Nautobot {
		r.path = "/api" + graphQLPath
	}
	var answer struct {
		Data   json.RawMessage `json:"data"`
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if err := c.call(ctx, r, &answer); err != nil {
		return nil, err
	}
	if len(answer.Errors) > 0 {
		return nil, c.fail(&Error{
			Kind: KindInvalid, Status: http.StatusOK, Message: "GraphQL: " + c.quote(r, answer.Errors[0].Message),
		})
	}
	return answer.Data, nil
}
