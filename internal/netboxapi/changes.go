package netboxapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const (
	// maxPageRows is the most rows that NetBox gives in one answer by default.
	maxPageRows = 1000
	// maxRequestRows bounds the rows of one request id.
	maxRequestRows = 10_000
	// maxSteps bounds the requests for one page of a log that cannot be ordered: two for each halving of a range of ids.
	maxSteps = 128
)

// page is an answer with rows of the change log.
type page struct {
	Count *int64  `json:"count"`
	Next  *string `json:"next"`
	Rows  []Row   `json:"results"`
}

func (p page) hasMore() bool { return p.Next != nil && *p.Next != "" && len(p.Rows) > 0 }

// Changes returns the rows of the change log after a cursor, in ascending order, and whether there are more. It returns at most limit rows,
// and no more than 1000; fewer if rows are very large. The token needs the permission view on core.objectchange (extras.objectchange before
// NetBox 4.1 and in Nautobot), and none on the objects.
func (c *Client) Changes(ctx context.Context, after Cursor, limit int) ([]Row, bool, error) {
	return c.changes(ctx, after, limit, url.Values{})
}

// ChangesOf returns all rows of a request id, in ascending order. It fails if there are more than 10 000.
func (c *Client) ChangesOf(ctx context.Context, requestID string) ([]Row, error) {
	var all []Row
	for after := (Cursor{}); ; {
		rows, more, err := c.changes(ctx, after, maxPageRows, url.Values{"request_id": {requestID}})
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		switch {
		case !more:
			return all, nil
		case len(all) > maxRequestRows:
			return nil, c.fail(&Error{
				Kind: KindTooLarge, Message: fmt.Sprintf("request %.40q has more than %d rows in the change log", requestID, maxRequestRows),
			})
		}
		after = rows[len(rows)-1].Cursor()
	}
}

func (c *Client) changes(ctx context.Context, after Cursor, limit int, filter url.Values) ([]Row, bool, error) {
	status, err := c.logStatus(ctx)
	if err != nil {
		return nil, false, err
	}
	limit = min(max(limit, 1), maxPageRows)
	switch {
	case status.Flavor == Nautobot:
		return c.changesByTime(ctx, status, after, limit, filter)
	case !status.AtLeast(3, 3):
		return c.changesByHalving(ctx, status, after, limit, filter)
	case status.AtLeast(4, 6):
		// Pages by id cost NetBox no count; changed_object, one query for each row.
		filter.Set("start", strconv.FormatInt(after.ID+1, 10))
		filter.Set("omit", "changed_object")
	default:
		filter.Set("id__gt", strconv.FormatInt(after.ID, 10))
		filter.Set("ordering", "id")
	}
	found, err := c.rows(ctx, status, filter, limit)
	if err != nil {
		return nil, false, err
	}
	if err := c.checkOrder(after, found.Rows); err != nil {
		return nil, false, err
	}
	return found.Rows, found.hasMore(), nil
}

// logStatus returns the status of a NetBox whose change log can be read.
func (c *Client) logStatus(ctx context.Context) (Status, error) {
	status, err := c.known(ctx)
	if err != nil {
		return status, err
	}
	if status.Flavor == Nautobot && !status.AtLeast(2, 0) {
		return status, c.unsupported(status, "change log that can be read in order: it needs 2.0 or later")
	}
	return status, nil
}

// checkOrder fails unless the rows are after a cursor and in ascending order: a server that ignores what it was asked for would be asked
// for the same rows for ever.
func (c *Client) checkOrder(after Cursor, rows []Row) error {
	for _, row := range rows {
		if row.Cursor().Compare(after) <= 0 {
			return c.malformed("the rows of the change log are not in the order that was asked for")
		}
		after = row.Cursor()
	}
	return nil
}

// rows asks for at most limit rows. It asks for fewer when an answer was too large, or did not come in time.
func (c *Client) rows(ctx context.Context, status Status, query url.Values, limit int) (page, error) {
	path := "/api/extras/object-changes/"
	if status.Flavor == NetBox && status.AtLeast(4, 1) {
		path = "/api/core/object-changes/"
	}
	for {
		size := min(limit, c.pageSize())
		query.Set("limit", strconv.Itoa(size))
		var found page
		err := c.call(ctx, request{method: http.MethodGet, path: path, query: query, maxBytes: c.maxPageBytes}, &found)
		switch kind := KindOf(err); {
		case kind == KindTooLarge && size > 1:
			c.setPageSize(size / 2)
			continue
		case kind == KindTimeout:
			c.setPageSize(max(size/2, 1))
		case kind == "" && size == c.pageSize():
			c.setPageSize(min(2*size, maxPageRows))
		}
		if err != nil {
			return page{}, err
		}
		return found, c.checkPage(status, found, size)
	}
}

func (c *Client) checkPage(status Status, found page, size int) error {
	if len(found.Rows) > size {
		return c.malformed("the page of the change log has more rows than were asked for")
	}
	for _, row := range found.Rows {
		if cursor := row.Cursor(); (status.Flavor == NetBox) != (cursor.ID > 0) {
			return c.malformed(fmt.Sprintf("the id %.40q of a row of the change log is not one of %s", row.ID, status.Flavor))
		}
	}
	return nil
}

func (c *Client) pageSize() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pageRows
}

func (c *Client) setPageSize(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pageRows = size
}

// changesByHalving reads the log of NetBox before 3.3, which cannot be ordered by id: it halves the range of ids until the rest has no more
// rows than a page.
func (c *Client) changesByHalving(ctx context.Context, status Status, after Cursor, limit int, filter url.Values) ([]Row, bool, error) {
	low, high, more := after.ID, int64(0), false
	for range maxSteps {
		filter.Set("id__gt", strconv.FormatInt(low, 10))
		if high > 0 {
			filter.Set("id__lte", strconv.FormatInt(high, 10))
		}
		found, err := c.rows(ctx, status, filter, limit)
		if err != nil {
			return nil, false, err
		}
		switch {
		case len(found.Rows) == 0 && high == 0:
			return nil, false, nil
		case len(found.Rows) == 0:
			// The lower half is empty: go on with the upper one, whose lower half is next.
			low, high = high, high+2*(high-low)
			continue
		case !found.hasMore():
			slices.SortFunc(found.Rows, func(a, b Row) int { return a.Cursor().Compare(b.Cursor()) })
			return found.Rows, more, c.checkOrder(Cursor{ID: low}, found.Rows)
		}
		// The newest row comes first.
		more = true
		if newest := found.Rows[0].Cursor().ID; high == 0 || newest < high {
			high = newest
		}
		if high-low <= 1 {
			break
		}
		high = low + (high-low)/2
	}
	return nil, false, c.malformed("the pages of the change log do not follow id__gt and id__lte")
}

// changesByTime reads the log of Nautobot, whose ids have no order: by time, and by id for rows of the same time.
func (c *Client) changesByTime(ctx context.Context, status Status, after Cursor, limit int, filter url.Values) ([]Row, bool, error) {
	filter.Set("sort", "time,id")
	filter.Set("depth", "0")
	if !after.Time.IsZero() {
		filter.Set("time__gte", timestamp(after.Time))
	}
	for offset := 0; ; {
		filter.Set("offset", strconv.Itoa(offset))
		found, err := c.rows(ctx, status, filter, limit)
		if err != nil {
			return nil, false, err
		}
		// The rows up to the cursor are of its time.
		seen := slices.IndexFunc(found.Rows, func(row Row) bool { return row.Cursor().Compare(after) > 0 })
		if seen < 0 && found.hasMore() && offset < maxRequestRows {
			offset += len(found.Rows)
			continue
		}
		if seen < 0 {
			return nil, false, nil
		}
		rows := found.Rows[seen:]
		return rows, found.hasMore(), c.checkOrder(after, rows)
	}
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// FirstAfter returns the cursor from which Changes returns the rows since a time, that time included.
func (c *Client) FirstAfter(ctx context.Context, since time.Time) (Cursor, error) {
	status, err := c.logStatus(ctx)
	if err != nil {
		return Cursor{}, err
	}
	if status.Flavor == Nautobot {
		return Cursor{Time: since.UTC()}, nil
	}
	query := url.Values{"time_after": {timestamp(since)}, "ordering": {"id"}}
	if !status.AtLeast(3, 3) {
		return c.firstAfterUnordered(ctx, status, query)
	}
	found, err := c.rows(ctx, status, query, 1)
	if err != nil {
		return Cursor{}, err
	}
	if len(found.Rows) > 0 {
		return Cursor{ID: found.Rows[0].Cursor().ID - 1}, nil
	}
	// The newest row before that time, and not the newest one: more may have come since.
	return c.newest(ctx, status, url.Values{"time_before": {timestamp(since)}})
}

// firstAfterUnordered looks at the last rows, as the newest one comes first.
func (c *Client) firstAfterUnordered(ctx context.Context, status Status, query url.Values) (Cursor, error) {
	const lastRows = 100
	found, err := c.rows(ctx, status, query, 1)
	if err != nil {
		return Cursor{}, err
	}
	if len(found.Rows) == 0 {
		return c.newest(ctx, status, url.Values{"time_before": query["time_after"]})
	}
	if found.Count == nil {
		return Cursor{}, c.malformed("a page has no count")
	}
	first := found.Rows[0].Cursor()
	for offset, more := max(*found.Count-lastRows, 0), true; more; offset += int64(len(found.Rows)) {
		query.Set("offset", strconv.FormatInt(offset, 10))
		if found, err = c.rows(ctx, status, query, lastRows); err != nil {
			return Cursor{}, err
		}
		for _, row := range found.Rows {
			if row.Cursor().Compare(first) < 0 {
				first = row.Cursor()
			}
		}
		more = found.hasMore() && offset < *found.Count+lastRows
	}
	return Cursor{ID: first.ID - 1}, nil
}

// Last returns the position after the newest row; the zero Cursor if there is none.
func (c *Client) Last(ctx context.Context) (Cursor, error) {
	status, err := c.logStatus(ctx)
	if err != nil {
		return Cursor{}, err
	}
	return c.newest(ctx, status, url.Values{})
}

func (c *Client) newest(ctx context.Context, status Status, query url.Values) (Cursor, error) {
	if status.Flavor == Nautobot {
		query.Set("sort", "-time,-id")
		query.Set("depth", "0")
	} else {
		// Before NetBox 3.3, which ignores this, the newest row comes first.
		query.Set("ordering", "-id")
	}
	found, err := c.rows(ctx, status, query, 1)
	if err != nil || len(found.Rows) == 0 {
		return Cursor{}, err
	}
	return found.Rows[0].Cursor(), nil
}
