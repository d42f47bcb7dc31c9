package ingest

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// idleConnections are the connections that wait for a request, or for the rest of its head. Where they become too many, those that have
// waited longest are closed: whoever has a request to send does not wait.
type idleConnections struct {
	most int

	mu    sync.Mutex
	order *list.List // of net.Conn; who waits longest is first
	where map[net.Conn]*list.Element
}

func newIdleConnections(most int) *idleConnections {
	return &idleConnections{most: most, order: list.New(), where: map[net.Conn]*list.Element{}}
}

// changed is an http.Server's ConnState. A connection becomes active when the head of a request is there.
func (c *idleConnections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.where[conn]; element != nil {
		c.forget(element)
	}
	if state != http.StateNew && state != http.StateIdle {
		return
	}
	c.where[conn] = c.order.PushBack(conn)
	if c.order.Len() > c.most {
		longest := c.order.Front()
		c.forget(longest)
		closeNow(longest.Value.(net.Conn))
	}
}

func (c *idleConnections) forget(element *list.Element) {
	delete(c.where, element.Value.(net.Conn))
	c.order.Remove(element)
}

// closeNow closes a connection without a word. To say goodbye by TLS could take seconds.
func closeNow(conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	_ = conn.Close() // its server learns of it by its next read
}
