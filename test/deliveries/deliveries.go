// Package deliveries holds webhook deliveries recorded from real NetBox and Nautobot servers, for tests, the demo and benchmarks.
// README.md beside it describes the files.
package deliveries

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

//go:embed *.jsonl
var files embed.FS

// Delivery is one recorded request.
type Delivery struct {
	Source  string      `json:"source"`
	Version string      `json:"version"`
	N       int         `json:"n"`
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
	// Key is the webhook's secret, nil if it had none.
	Key *string `json:"key"`

	// File is the recording's file name without its extension.
	File string `json:"-"`
}

// String names a delivery as tests do: netbox-4.6.8-live/12.
func (d Delivery) String() string { return fmt.Sprintf("%s/%d", d.File, d.N) }

// Header returns the value of the first header of a name, which is compared without regard to case.
func (d Delivery) Header(name string) string {
	for _, header := range d.Headers {
		if strings.EqualFold(header[0], name) {
			return header[1]
		}
	}
	return ""
}

// Request makes the recorded request to another URL.
func (d Delivery) Request(ctx context.Context, url string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, d.Method, url, strings.NewReader(d.Body))
	if err != nil {
		return nil, err
	}
	for _, header := range d.Headers {
		switch http.CanonicalHeaderKey(header[0]) {
		case "Host", "Content-Length", "Accept-Encoding":
		default:
			request.Header.Add(header[0], header[1])
		}
	}
	return request, nil
}

// All returns every delivery, file by file in the order in which they were sent.
func All() ([]Delivery, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var all []Delivery
	for _, entry := range entries {
		content, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, err
		}
		lines := bufio.NewReader(bytes.NewReader(content))
		for {
			line, err := lines.ReadBytes('\n')
			if len(line) > 0 {
				delivery := Delivery{File: strings.TrimSuffix(entry.Name(), ".jsonl")}
				if err := json.Unmarshal(line, &delivery); err != nil {
					return nil, fmt.Errorf("%s: %w", entry.Name(), err)
				}
				all = append(all, delivery)
			}
			if err == io.EOF {
				break
			} else if err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
