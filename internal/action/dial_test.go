package action

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for _, test := range []struct {
		reason  string
		address string
		allowed string
		what    string // it is, "" where it may be connected to
	}{
		{reason: "a private network", address: "10.0.0.1"},
		{reason: "another", address: "192.168.1.1"},
		{reason: "carriers' NAT, as some clusters have it", address: "100.64.0.1"},
		{reason: "a private network", address: "fd00::1"},
		{reason: "the internet", address: "2001:db8::1"},
		{reason: "beside loopback", address: "128.0.0.1"},
		{reason: "NAT64 of the internet", address: "64:ff9b::808:808"},
		{reason: "6to4 of the internet", address: "2002:808:808::1"},

		{reason: "loopback", address: "127.0.0.1", what: "loopback"},
		{reason: "all of loopback", address: "127.255.255.254", what: "loopback"},
		{reason: "loopback", address: "::1", what: "loopback"},
		{reason: "Linux takes it for loopback", address: "0.0.0.0", what: "this machine"},
		{reason: "Linux takes it for loopback", address: "::", what: "this machine"},
		{reason: "link-local, and metadata", address: "169.254.169.254", what: "link-local"},
		{reason: "link-local", address: "fe80::a9fe:a9fe", what: "link-local"},
		{reason: "link-local with a zone", address: "fe80::1%eth0", what: "link-local"},
		{reason: "multicast", address: "224.0.0.1", what: "multicast"},
		{reason: "multicast", address: "ff02::1", what: "multicast"},
		{reason: "broadcast", address: "255.255.255.255", what: "broadcast"},
		{reason: "AWS", address: "fd00:ec2::254", what: "metadata"},
		{reason: "Google", address: "fd20:ce::254", what: "metadata"},
		{reason: "Azure", address: "168.63.129.16", what: "metadata"},
		{reason: "Alibaba", address: "100.100.100.200", what: "metadata"},
		{reason: "IPv4-mapped", address: "::ffff:127.0.0.1", what: "loopback"},
		{reason: "IPv4-compatible", address: "::127.0.0.1", what: "loopback"},
		{reason: "IPv4-translated", address: "::ffff:0:127.0.0.1", what: "loopback"},
		{reason: "NAT64", address: "64:ff9b::a9fe:a9fe", what: "link-local"},
		{reason: "NAT64 of a network's own", address: "64:ff9b:1::a9fe:a9fe", what: "link-local"},
		{reason: "6to4", address: "2002:7f00:1::", what: "loopback"},

		{reason: "an address that is allowed", address: "127.0.0.1", allowed: "127.0.0.1/32"},
		{reason: "allowed, however it is written", address: "::ffff:127.0.0.1", allowed: "127.0.0.0/8"},
		{reason: "allowed, whoever translates it", address: "64:ff9b::7f00:1", allowed: "127.0.0.0/8"},
		{reason: "allowed in its zone", address: "fe80::1%eth0", allowed: "fe80::/10"},
		{reason: "beside what is allowed", address: "127.0.0.2", allowed: "127.0.0.1/32", what: "loopback"},
	} {
		t.Run(test.reason+" "+test.address, func(t *testing.T) {
			var allowed []netip.Prefix
			if test.allowed != "" {
				allowed = append(allowed, netip.MustParsePrefix(test.allowed))
			}
			err := checkAddress(netip.MustParseAddr(test.address), allowed)
			if (err == nil) != (test.what == "") || err != nil && !strings.Contains(err.Error(), test.what) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestCheckHost(t *testing.T) {
	for host, good := range map[string]bool{
		"sink.netbox.svc": true,
		"sink":            true,
		"example.com.":    true,
		"10.0.0.1.nip.io": true,
		"3com.example":    true,
		"10.0.0.1":        true,
		"fd00::1":         true,
		"2130706433":      false, // 127.0.0.1 in one number,
		"0x7f000001":      false, // in hexadecimal
		"0X7F.0.0.1":      false,
		"017700000001":    false, // and in octal digits,
		"0177.0.0.1":      false,
		"127.1":           false, // with less parts,
		"127.0.0.1.":      false, // and as a name with its dot
		"0x":              false,
		"1.2.3.4.5":       false,
		"340282366920938463463374607431768211456": false,
	} {
		if err := checkHost(host, nil); (err == nil) != good {
			t.Errorf("%s: %v", host, err)
		}
	}
}
