package ingest

// Kept returns the number of rate limiters and cached key sets of all sources.
func (r *Receiver) Kept() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys.mu.Lock()
	defer r.keys.mu.Unlock()
	return len(r.rates) + len(r.keys.sources)
}
