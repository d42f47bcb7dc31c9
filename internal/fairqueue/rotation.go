package fairqueue

import "slices"

// rotation gives its members turns.
type rotation[M any] struct {
	members []M
	next    int // the index of the member whose turn is next; the number of members is the first again
}

// join adds a member, whose turn is after those of all others.
func (r *rotation[M]) join(member M) {
	r.members = slices.Insert(r.members, r.next, member)
	r.next++
}

// at returns the member whose turn is after that of n others.
func (r *rotation[M]) at(n int) M { return r.members[(r.next+n)%len(r.members)] }

// served ends the turn of the member at n: the turn is next with the one after it, and the member stays for the next round or leaves.
func (r *rotation[M]) served(n int, stays bool) {
	r.next = (r.next + n) % len(r.members)
	if stays {
		r.next++
	} else {
		r.members = slices.Delete(r.members, r.next, r.next+1)
	}
}
