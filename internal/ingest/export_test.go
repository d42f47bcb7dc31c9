package ingest

// Kept returns how many rate limiters, and sets of keys, are kept of all sources.
func (r *Receiver) Kept() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys.mu.Lock()
	defer r.keys.mu.Unlock()
	return len(r.rates) + len(r.keys.sources)
}
