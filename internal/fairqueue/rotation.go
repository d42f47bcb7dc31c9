package fairqueue

import "slices"

// rotation serves its members round-robin.
type rotation[M any] struct {
	members []M
	next    int // the index of the next member; len(members) means the first
}

// join adds a member after all others.
func (r *rotation[M]) join(member M) {
	r.members = slices.Insert(r.members, r.next, member)
	r.next++
}

// at returns the member after the next n.
func (r *rotation[M]) at(n int) M { return r.members[(r.next+n)%len(r.members)] }

// served advances past the member at n, and removes it unless it stays.
func (r *rotation[M]) served(n int, stays bool) {
	r.next = (r.next + n) % len(r.members)
	if stays {
		r.next++
	} else {
		r.members = slices.Delete(r.members, r.next, r.next+1)
	}
}
