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
	// requestTimeout is how long a request may take to arrive.
	requestTimeout = 30 * time.Second
	// idleTimeout is longer than the 60 and 90 seconds for which common Ingress controllers keep an idle connection, so that it is
	// not the receiver who closes one that a request is just sent on.
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 8 << 10 // net/http takes 4 KiB more
	// idleConnectionsMost is how many connections may be open on which no request has begun. Beyond it, those that have waited longest are
	// closed. One takes 20 kB, or up to 130 kB with a head of small headers that does not end.
	idleConnectionsMost = 1024
	// lameDuckTime is how long requests are still taken when the receiver is no longer ready: Ingress controllers learn of it late.
	lameDuckTime = 3 * time.Second
	// answerTime is how long an answer may take to be written, after the request was read and its hold is over.
	answerTime = 5 * time.Second
	// drainTimeout is how long requests that have begun may take when the receiver stops.
	drainTimeout = 20 * time.Second
)

// Server serves a Receiver, on every replica, from when the caches are filled until the manager stops.
type Server struct {
	// Address is where to listen, ":8080".
	Address string
	// CertDir holds tls.crt and tls.key, which are read again when they change. Plain HTTP is served where it is empty.
	CertDir  string
	Receiver *Receiver
	Log      logr.Logger

	ready atomic.Bool
}

// NeedLeaderElection says that every replica receives.
func (s *Server) NeedLeaderElection() bool { return false }

// Ready fails unless requests are served. It fails first when the manager stops, while requests that have begun are still answered.
func (s *Server) Ready(*http.Request) error {
	if !s.ready.Load() {
		return errors.New("the receiver does not serve: it waits for its caches, or is stopping")
	}
	return nil
}

// Start listens and serves until ctx is done, then answers what has begun. The manager starts it when the caches are filled.
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
		ConnState:         newIdleConnections(idleConnectionsMost).changed,

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
	s.Log.Info("no longer ready; requests are taken for a little while, and those that have begun are answered")
	s.Receiver.EndHolds()              // the sender, or NetBox's queue, has another replica to try
	server.SetKeepAlivesEnabled(false) // so that nobody sends the next request on a connection that is about to be closed
	select {
	case err := <-served:
		return fmt.Errorf("receiving webhooks: %w", err)
	case <-time.After(lameDuckTime):
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(fmt.Errorf("requests were cut off: %w", err), server.Close())
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
			s.Log.Error(err, "the certificate is no longer watched; a new one needs a restart")
		}
	}()
	return tls.NewListener(listener, &tls.Config{
		GetCertificate: watcher.GetCertificate,
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
	}), nil
}
