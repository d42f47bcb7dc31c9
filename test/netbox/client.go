package netbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client makes requests to NetBox's REST API.
type Client struct {
	// URL is NetBox's, without /api.
	URL string
	// Token is of version 1 (40 characters) or 2 (nbt_KEY.TOKEN).
	Token string
}

// StatusError is an answer other than 2xx.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Status, e.Body)
}

// Do makes a request with a body in JSON (none if nil) to a path below /api/, and decodes the answer into out unless that is nil. An answer
// other than 2xx is a *StatusError.
func (c Client) Do(ctx context.Context, method, path string, body, out any) error {
	_, err := c.send(ctx, method, path, body, out)
	return err
}

// send is Do, and returns the id that NetBox gave the request, also with a StatusError.
func (c Client) send(ctx context.Context, method, path string, body, out any) (string, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return "", err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+"/api/"+path, content)
	if err != nil {
		return "", err
	}
	scheme := "Token "
	if strings.HasPrefix(c.Token, "nbt_") {
		scheme = "Bearer "
	}
	request.Header.Set("Authorization", scheme+c.Token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	id := answer.Header.Get("X-Request-ID")
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return id, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if answer.StatusCode/100 != 2 {
		return id, &StatusError{Method: method, Path: path, Status: answer.StatusCode, Body: string(text)}
	}
	if out == nil {
		return id, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return id, fmt.Errorf("%s %s: %w in %.200q", method, path, err, text)
	}
	return id, nil
}

// list returns all objects of a list of the API, by ascending id.
func list[T any](ctx context.Context, client Client, path string, query url.Values) ([]T, error) {
	query.Set("ordering", "id")
	query.Set("limit", "1000")
	var all []T
	for {
		query.Set("offset", fmt.Sprint(len(all)))
		var page struct {
			Next    *string
			Results []T
		}
		if err := client.Do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Results...)
		if page.Next == nil {
			return all, nil
		}
	}
}
