package outbound

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
		kind    string // of the forbidden address, "" for an allowed one
	}{
		{reason: "a private network", address: "10.0.0.1"},
		{reason: "another", address: "192.168.1.1"},
		{reason: "carrier-grade NAT, which some clusters use", address: "100.64.0.1"},
		{reason: "a private network", address: "fd00::1"},
		{reason: "the internet", address: "2001:db8::1"},
		{reason: "outside of loopback", address: "128.0.0.1"},
		{reason: "NAT64 of the internet", address: "64:ff9b::808:808"},
		{reason: "NAT64 of the internet, of a network's own with 48 bits", address: "64:ff9b:1:808:8:800::"},
		{reason: "with 56 bits", address: "64:ff9b:1:8:8:808::"},
		{reason: "with 64 bits", address: "64:ff9b:1:0:8:808:800:0"},
		{reason: "with 96 bits", address: "64:ff9b:1::808:808"},
		{reason: "Teredo of the internet", address: "2001:0:808:808::f7f7:f7f7"},
		{reason: "not Teredo", address: "2001:1:7f00:1::"},
		{reason: "6to4 of the internet", address: "2002:808:808::1"},

		{reason: "loopback", address: "127.0.0.1", kind: "loopback"},
		{reason: "the last address of loopback", address: "127.255.255.254", kind: "loopback"},
		{reason: "loopback", address: "::1", kind: "loopback"},
		{reason: "loopback on Linux", address: "0.0.0.0", kind: "this machine"},
		{reason: "loopback on Linux", address: "::", kind: "this machine"},
		{reason: "link-local, and metadata", address: "169.254.169.254", kind: "link-local"},
		{reason: "link-local", address: "fe80::a9fe:a9fe", kind: "link-local"},
		{reason: "link-local with a zone", address: "fe80::1%eth0", kind: "link-local"},
		{reason: "multicast", address: "224.0.0.1", kind: "multicast"},
		{reason: "multicast", address: "ff02::1", kind: "multicast"},
		{reason: "broadcast", address: "255.255.255.255", kind: "broadcast"},
		{reason: "AWS", address: "fd00:ec2::254", kind: "metadata"},
		{reason: "Google", address: "fd20:ce::254", kind: "metadata"},
		{reason: "Azure", address: "168.63.129.16", kind: "metadata"},
		{reason: "Alibaba", address: "100.100.100.200", kind: "metadata"},
		{reason: "IPv4-mapped", address: "::ffff:127.0.0.1", kind: "loopback"},
		{reason: "IPv4-compatible", address: "::127.0.0.1", kind: "loopback"},
		{reason: "IPv4-translated", address: "::ffff:0:127.0.0.1", kind: "loopback"},
		{reason: "NAT64", address: "64:ff9b::a9fe:a9fe", kind: "link-local"},
		{reason: "NAT64 of a network's own", address: "64:ff9b:1::a9fe:a9fe", kind: "link-local"},
		{reason: "with 48 bits", address: "64:ff9b:1:a9fe:a9:fe00::", kind: "link-local"},
		{reason: "with 56 bits", address: "64:ff9b:1:a9:fe:a9fe::", kind: "link-local"},
		{reason: "with 64 bits", address: "64:ff9b:1:0:a9:fea9:fe00:0", kind: "link-local"},
		{reason: "with 96 bits, a long prefix", address: "64:ff9b:1:2:3:4:7f00:1", kind: "loopback"},
		{reason: "Teredo's server", address: "2001:0:7f00:1::f7f7:f7f7", kind: "loopback"},
		{reason: "Teredo's client", address: "2001:0:808:808::5601:5601", kind: "link-local"},
		{reason: "6to4", address: "2002:7f00:1::", kind: "loopback"},

		{reason: "an allowed address", address: "127.0.0.1", allowed: "127.0.0.1/32"},
		{reason: "allowed, IPv4-mapped", address: "::ffff:127.0.0.1", allowed: "127.0.0.0/8"},
		{reason: "allowed, NAT64", address: "64:ff9b::7f00:1", allowed: "127.0.0.0/8"},
		{reason: "allowed, with a zone", address: "fe80::1%eth0", allowed: "fe80::/10"},
		{reason: "outside of the allowed prefix", address: "127.0.0.2", allowed: "127.0.0.1/32", kind: "loopback"},
	} {
		t.Run(test.reason+" "+test.address, func(t *testing.T) {
			var allowed []netip.Prefix
			if test.allowed != "" {
				allowed = append(allowed, netip.MustParsePrefix(test.allowed))
			}
			err := checkAddress(netip.MustParseAddr(test.address), allowed)
			if (err == nil) != (test.kind == "") || err != nil && !strings.Contains(err.Error(), test.kind) {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func TestCheckHost(t *testing.T) {
	for host, valid := range map[string]bool{
		"sink.netbox.svc": true,
		"sink":            true,
		"example.com.":    true,
		"10.0.0.1.nip.io": true,
		"3com.example":    true,
		"10.0.0.1":        true,
		"fd00::1":         true,
		"2130706433":      false, // 127.0.0.1 as one number
		"0x7f000001":      false, // in hexadecimal
		"0X7F.0.0.1":      false,
		"017700000001":    false, // octal
		"0177.0.0.1":      false,
		"127.1":           false, // fewer parts
		"127.0.0.1.":      false, // a trailing dot
		"0x":              false,
		"1.2.3.4.5":       false,
		"340282366920938463463374607431768211456": false,
	} {
		if err := checkHost(host, nil); (err == nil) != valid {
			t.Errorf("%s: %v", host, err)
		}
	}
}
