package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// Metrics are sums over the labels of each metric.
type Metrics map[string]float64

// A manager's certificate is self-signed.
var scraper = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// Metrics reads those of a manager, as Prometheus does.
func (r *Replica) Metrics(ctx context.Context) (Metrics, error) {
	text, err := r.get(ctx, "/metrics")
	return sums(text, func(string) bool { return true }), err
}

// CollectGarbage forces a garbage collection of a manager.
func (r *Replica) CollectGarbage(ctx context.Context) error {
	_, err := r.get(ctx, "/debug/pprof/heap?gc=1")
	return err
}

func (r *Replica) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.metrics+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	return read(scraper, request)
}

// Writes returns how many writes the API server has done. See the function Writes.
func (f *Fleet) Writes(ctx context.Context) (writes float64, err error) {
	return Writes(ctx, f.kubernetes.RESTClient())
}

// Writes returns the number of an API server's writes, without those of leader election. Token and access reviews do not count as writes.
func Writes(ctx context.Context, api rest.Interface) (writes float64, err error) {
	return requests(ctx, api, func(line string) bool { return isWrite.MatchString(line) && !isNoWrite.MatchString(line) })
}

// StatusWrites returns how often the API server was asked to write the status of an event.
func (f *Fleet) StatusWrites(ctx context.Context) (writes float64, err error) {
	return requests(ctx, f.kubernetes.RESTClient(), func(line string) bool {
		return isWrite.MatchString(line) && strings.Contains(line, `resource="netboxevents"`) && strings.Contains(line, `subresource="status"`)
	})
}

// requests returns how many requests an API server has answered, summed over the wanted lines of its metrics.
func requests(ctx context.Context, api rest.Interface, wanted func(line string) bool) (count float64, err error) {
	text, err := api.Get().AbsPath("/metrics").DoRaw(ctx)
	all := sums(text, func(line string) bool { return strings.HasPrefix(line, "apiserver_request_total{") && wanted(line) })
	return all["apiserver_request_total"], err
}

var (
	isWrite   = regexp.MustCompile(`verb="(POST|PUT|PATCH|APPLY|DELETE)"`)
	isNoWrite = regexp.MustCompile(`resource="(leases|tokenreviews|subjectaccessreviews)"`)
)

// CollectGarbage forces a garbage collection of an API server, and returns the bytes that are in use afterwards.
func CollectGarbage(ctx context.Context, api rest.Interface) (heap int64, err error) {
	if err := api.Get().AbsPath("/debug/pprof/heap").Param("gc", "1").Do(ctx).Error(); err != nil {
		return 0, err
	}
	text, err := api.Get().AbsPath("/metrics").DoRaw(ctx)
	return int64(sums(text, func(string) bool { return true })["go_memstats_heap_alloc_bytes"]), err
}

// EtcdBytes returns the size of etcd's file, and how much of it is in use.
func (f *Fleet) EtcdBytes(ctx context.Context) (size, used int64, err error) {
	text, err := f.etcd(ctx, http.MethodGet, "/metrics", "")
	all := sums(text, func(string) bool { return true })
	return int64(all["etcd_mvcc_db_total_size_in_bytes"]), int64(all["etcd_mvcc_db_total_size_in_use_in_bytes"]), err
}

func (f *Fleet) etcd(ctx context.Context, method, path, body string) ([]byte, error) {
	process, err := f.Etcd()
	if err != nil {
		return nil, err
	}
	arguments, err := process.arguments()
	if err != nil {
		return nil, err
	}
	for _, argument := range arguments {
		url, found := strings.CutPrefix(argument, "--listen-client-urls=")
		if !found {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, method, url+path, bytes.NewReader([]byte(body)))
		if err != nil {
			return nil, err
		}
		return read(&http.Client{Timeout: time.Minute}, request)
	}
	return nil, fmt.Errorf("etcd was started without --listen-client-urls: %q", arguments)
}

func read(client *http.Client, request *http.Request) ([]byte, error) {
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %.200s", request.URL, response.Status, text)
	}
	return text, err
}

func sums(text []byte, wanted func(line string) bool) Metrics {
	metrics := Metrics{}
	for line := range strings.Lines(string(text)) {
		end := strings.LastIndex(line, " ")
		if strings.HasPrefix(line, "#") || end < 0 || !wanted(line) {
			continue
		}
		if value, err := strconv.ParseFloat(strings.TrimSpace(line[end:]), 64); err == nil {
			name, _, _ := strings.Cut(line[:end], "{")
			metrics[name] += value
		}
	}
	return metrics
}
