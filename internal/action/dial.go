package action

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// forbidden are addresses local to this machine or network segment, and metadata services, at which clouds hand out credentials without
// authentication, unless they are link-local, as 169.254.169.254 is.
var forbidden = []struct {
	prefix netip.Prefix
	kind   string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this machine"}, // connecting to 0.0.0.0 reaches loopback
	{netip.MustParsePrefix("::/128"), "this machine"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), cloudMetadata},      // AWS EC2
	{netip.MustParsePrefix("fd00:ec2::23/128"), cloudMetadata},       // AWS EKS, for pods
	{netip.MustParsePrefix("fd20:ce::254/128"), cloudMetadata},       // Google Compute Engine
	{netip.MustParsePrefix("168.63.129.16/32"), cloudMetadata},       // Azure, for its agents
	{netip.MustParsePrefix("100.100.100.200/32"), cloudMetadata},     // Alibaba ECS
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), cloudMetadata}, // Oracle
	{netip.MustParsePrefix("192.0.0.192/32"), cloudMetadata},         // Oracle, formerly
	{netip.MustParsePrefix("fd00:42::42/128"), cloudMetadata},        // Scaleway
}

const cloudMetadata = "a cloud's metadata service"

// Prefixes of IPv6 addresses that embed an IPv4 address: in the last 32 bits for NAT64 (RFC 6052 and RFC 8215), IPv4-compatible (RFC 4291)
// and IPv4-translated (RFC 2765) addresses, and after the prefix for 6to4 (RFC 3056).
var (
	endsInIPv4 = []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"),
	}
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// addressError is the error of a forbidden address.
type addressError struct {
	address netip.Addr
	kind    string
}

func (e *addressError) Error() string {
	return fmt.Sprintf("%s is a forbidden address (%s); use another sink, or start the operator with --sink-allow-cidrs=%s",
		e.address, e.kind, netip.PrefixFrom(e.address, e.address.BitLen()))
}

// newDialer returns a dialer that checks addresses after name resolution, because a name can resolve to another address each time.
func newDialer(allowed []netip.Prefix) *net.Dialer {
	return &net.Dialer{
		Timeout: 10 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return checkAddress(to.Addr(), allowed)
		},
	}
}

// checkHost refuses the host of a URL if it is a forbidden address, or a number that some resolvers parse as an address: for them
// 2130706433, 0x7f000001, 0177.1 and 127.1 are 127.0.0.1. No host name ends in a number (WHATWG URL standard, 3.5).
func checkHost(host string, allowed []netip.Prefix) error {
	if address, err := netip.ParseAddr(host); err == nil {
		return checkAddress(address, allowed)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	last, digits := name[strings.LastIndexByte(name, '.')+1:], "0123456789"
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		last, digits = "0"+hex, "0123456789abcdef"
	}
	if last != "" && strings.Trim(last, digits) == "" {
		return fmt.Errorf("%.100s is neither a host name nor an IP address; write IPv4 addresses as four decimal numbers without leading zeros",
			host)
	}
	return nil
}

func checkAddress(address netip.Addr, allowed []netip.Prefix) error {
	address = address.Unmap().WithZone("")
	contains := func(prefix netip.Prefix) bool { return prefix.Contains(address) }
	if slices.ContainsFunc(allowed, contains) {
		return nil
	}
	for _, f := range forbidden {
		if contains(f.prefix) {
			return &addressError{address, f.kind}
		}
	}
	switch bytes := address.As16(); {
	case !address.Is6():
		return nil
	case slices.ContainsFunc(endsInIPv4, contains):
		return checkAddress(netip.AddrFrom4([4]byte(bytes[12:])), allowed)
	case contains(sixToFour):
		return checkAddress(netip.AddrFrom4([4]byte(bytes[2:6])), allowed)
	}
	return nil
}
