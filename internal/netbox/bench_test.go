package netbox_test

import (
	"testing"

	"github.com/netbox-events/netbox-event-operator/internal/netbox"
)

// BenchmarkDecode decodes one body of each size class after the other.
func BenchmarkDecode(b *testing.B) {
	bodies := map[string][]byte{}
	for _, delivery := range recorded(b) {
		for name, size := range map[string]int{"2kB": 2_000, "10kB": 10_000, "200kB": 200_000} {
			if _, ok := bodies[name]; !ok && len(delivery.Body) >= size && len(delivery.Body) < 2*size {
				bodies[name] = []byte(delivery.Body)
			}
		}
	}
	for name, body := range bodies {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := netbox.Decode(body, redact); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
