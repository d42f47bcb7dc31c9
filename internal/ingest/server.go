package ingest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

const (
	headerTimeout = 5 * time.Second
	// requestTimeout bounds the arrival of a request.
	requestTimeout = 30 * time.Second
	// idleTimeout is longer than the 60 and 90 seconds of common Ingress controllers, so that the receiver does not close a connection on
	// which a proxy is just sending a request.
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 8 << 10 // net/http takes 4 KiB more
	// maxIdleConnections limits the connections without an active request. Over it, the longest idle ones are closed. One takes 20 kB, or up
	// to 130 kB with an endless head of small headers.
	maxIdleConnections = 1024
	// lameDuckTime is how long requests are still accepted after readiness ended: Ingress controllers notice late.
	lameDuckTime = 3 * time.Second
	// answerTime bounds writing an answer, after the request was read and its hold has ended.
	answerTime = 5 * time.Second
	// drainTimeout bounds requests in flight when the receiver stops.
	drainTimeout = 20 * time.Second
)

// Server serves a Receiver on every replica, from when the caches have synced until the manager stops.
type Server struct {
	// Address is the address to listen at, for example ":8080".
	Address string
	// CertDir is the directory of tls.crt and tls.key, which are reloaded when they change. Empty means plain HTTP.
	CertDir  string
	Receiver *Receiver
	Log      logr.Logger

	ready atomic.Bool
}

// NeedLeaderElection returns false: every replica receives.
func (s *Server) NeedLeaderElection() bool { return false }

// Ready is the readiness check. It fails as soon as the manager stops, while requests in flight are still answered.
func (s *Server) Ready(*http.Request) error {
	if !s.ready.Load() {
		return errors.New("the receiver is waiting for its caches, or stopping")
	}
	return nil
}

// Start listens and serves until ctx is done, then answers the requests in flight. The manager calls it once the caches have synced.
func (s *Server) Start(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Address)
	if err != nil {
		return fmt.Errorf("listening for webhooks: %w", err)
	}
	if s.CertDir != "" {
		if listener, err = s.withTLS(ctx, listener); err != nil {
			return err
		}
	}
	server := &http.Server{
		Handler:           s.Receiver,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout + s.Receiver.Hold + answerTime,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         newIdleConnections(maxIdleConnections).track,

		DisableGeneralOptionsHandler: true,

		ErrorLog: slog.NewLogLogger(logr.ToSlogHandler(s.Log.V(1)), slog.LevelInfo),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s.Log.Info("receiving webhooks", "address", listener.Addr().String(), "tls", s.CertDir != "")
	s.ready.Store(true)

	select {
	case err := <-served:
		return fmt.Errorf("receiving webhooks: %w", err)
	case <-ctx.Done():
	}
	s.ready.Store(false)
	s.Log.Info("stopping: no longer ready; answering requests in flight")
	s.Receiver.EndHolds()              // the sender can try another replica
	server.SetKeepAlivesEnabled(false) // so that clients do not reuse a connection that is about to close
	select {
	case err := <-served:
		return fmt.Errorf("receiving webhooks: %w", err)
	case <-time.After(lameDuckTime):
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("requests in flight were aborted: %w", err), server.Close())
	}
	return nil
}

func (s *Server) withTLS(ctx context.Context, listener net.Listener) (net.Listener, error) {
	watcher, err := certwatcher.New(filepath.Join(s.CertDir, "tls.crt"), filepath.Join(s.CertDir, "tls.key"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the certificate for webhooks: %w", err), listener.Close())
	}
	go func() {
		if err := watcher.Start(ctx); err != nil {
			s.Log.Error(err, "stopped watching the certificate; restart to load a new one")
		}
	}()
	return tls.NewListener(listener, &tls.Config{
		GetCertificate: watcher.GetCertificate,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
	}), nil
}
