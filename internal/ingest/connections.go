package ingest

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// idleConnections limits the connections without an active request: idle ones, and those whose request head is incomplete. Over the limit,
// the connection that has been idle longest is closed: a client with a request to send is not idle for long.
type idleConnections struct {
	limit int

	mu       sync.Mutex
	order    *list.List // of net.Conn, the longest idle first
	elements map[net.Conn]*list.Element
}

func newIdleConnections(limit int) *idleConnections {
	return &idleConnections{limit: limit, order: list.New(), elements: map[net.Conn]*list.Element{}}
}

// track is an http.Server's ConnState. A connection becomes active when the head of a request is complete.
func (c *idleConnections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.elements[conn]; element != nil {
		c.forget(element)
	}
	if state != http.StateNew && state != http.StateIdle {
		return
	}
	c.elements[conn] = c.order.PushBack(conn)
	if c.order.Len() > c.limit {
		longest := c.order.Front()
		c.forget(longest)
		closeNow(longest.Value.(net.Conn))
	}
}

func (c *idleConnections) forget(element *list.Element) {
	delete(c.elements, element.Value.(net.Conn))
	c.order.Remove(element)
}

// closeNow closes a connection without TLS close_notify, which could block for seconds.
func closeNow(conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	_ = conn.Close() // its server notices at its next read
}
