package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file is a header followed by slots, each of the size of a record. A page holds whole records, so a kill of the process never leaves a
// partial write of one.
const (
	magic      = "netbox-event-operator journal 1\n"
	slots      = 4096
	recordSize = 64
	fileSize   = (1 + slots) * recordSize
)

func offset(slot int) int64 { return int64(1+slot) * recordSize }

// digest is the SHA-256 of a key. It gives records a fixed size, and keeps the contents of events out of the file.
type digest [sha256.Size]byte

func digestOf(key string) digest { return sha256.Sum256([]byte(key)) }

// record is one slot of the file: the digest, the state, the number of crashes, zeros, and the CRC-32 of these. A vacant slot is all zeros.
type record struct {
	key     digest
	state   state
	crashes uint8 // of processes, while they processed it
}

type state uint8

const (
	vacant state = iota
	suspected
	working
)

const (
	stateAt   = sha256.Size
	crashesAt = stateAt + 1
	crcAt     = recordSize - crc32.Size
)

func (r record) format() (content [recordSize]byte) {
	if r.state == vacant {
		return content
	}
	copy(content[:], r.key[:])
	content[stateAt], content[crashesAt] = byte(r.state), r.crashes
	binary.LittleEndian.PutUint32(content[crcAt:], crc32.ChecksumIEEE(content[:crcAt]))
	return content
}

// parseRecord accepts exactly what format returns.
func parseRecord(content []byte) (r record, ok bool) {
	copy(r.key[:], content)
	r.state, r.crashes = state(content[stateAt]), content[crashesAt]
	if r.state > working {
		return record{}, false
	}
	if want := r.format(); !bytes.Equal(content, want[:]) {
		return record{}, false
	}
	return r, true
}

func format(records []record) []byte {
	content := make([]byte, recordSize, fileSize)
	copy(content, magic)
	for _, r := range records {
		slot := r.format()
		content = append(content, slot[:]...)
	}
	return content
}

// parse returns the records of a file by slot, vacant if unreadable, or no records if the file is not a journal.
func parse(content []byte) ([]record, error) {
	header := make([]byte, recordSize)
	copy(header, magic)
	content, ok := bytes.CutPrefix(content, header)
	if !ok || len(content) != slots*recordSize {
		return nil, errors.New("the file is not a journal")
	}
	records, unreadable := make([]record, slots), 0
	for slot := range records {
		if records[slot], ok = parseRecord(content[slot*recordSize:][:recordSize]); !ok {
			unreadable++
		}
	}
	if unreadable > 0 {
		return records, fmt.Errorf("%d records are unreadable", unreadable)
	}
	return records, nil
}
