package outbound

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"golang.org/x/net/idna"
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

// Prefixes of IPv6 addresses that embed IPv4 addresses.
var (
	// endsInIPv4 are those with the address in the last 32 bits: NAT64 (RFC 6052), IPv4-compatible (RFC 4291) and IPv4-translated (RFC 2765).
	endsInIPv4 = []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"),
	}
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380

	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
)

// embeddedIPv4 returns the IPv4 addresses to which a gateway or a tunnel may forward the packets for an IPv6 address.
func embeddedIPv4(address netip.Addr) (embedded []netip.Addr) {
	bytes := address.As16()
	at := func(a, b, c, d int) netip.Addr {
		return netip.AddrFrom4([4]byte{bytes[a], bytes[b], bytes[c], bytes[d]})
	}
	switch {
	case slices.ContainsFunc(endsInIPv4, func(prefix netip.Prefix) bool { return prefix.Contains(address) }):
		return []netip.Addr{at(12, 13, 14, 15)}
	case localNAT64.Contains(address):
		// A network's own prefix within may have 48, 56, 64 or 96 bits (RFC 6052, 2.2). Which is unknown, so each must be allowed. The zeros of a
		// shorter or longer prefix are no address.
		all := []netip.Addr{at(6, 7, 9, 10), at(7, 9, 10, 11), at(9, 10, 11, 12), at(12, 13, 14, 15)}
		return slices.DeleteFunc(all, thisNetwork.Contains)
	case sixToFour.Contains(address):
		return []netip.Addr{at(2, 3, 4, 5)}
	case teredo.Contains(address): // the server, and the client with all bits inverted
		client := [4]byte(bytes[12:])
		for i := range client {
			client[i] = ^client[i]
		}
		return []netip.Addr{at(4, 5, 6, 7), netip.AddrFrom4(client)}
	}
	return nil
}

// forbiddenError is the error of a host that the operator must not connect to.
type forbiddenError struct{ text string }

// Error returns the text of the error.
func (e *forbiddenError) Error() string { return e.text }

func forbid(format string, args ...any) error { return &forbiddenError{fmt.Sprintf(format, args...)} }

// newDialer returns a dialer that checks addresses after name resolution, because a name can resolve to another address each time.
func newDialer(allowed []netip.Prefix) *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
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
	name, err := asciiHost(host)
	if err != nil {
		return err
	}
	if address, err := netip.ParseAddr(name); err == nil {
		return checkAddress(address, allowed)
	}
	name = strings.TrimSuffix(name, ".")
	last, digits := name[strings.LastIndexByte(name, '.')+1:], "0123456789"
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		last, digits = "0"+hex, "0123456789abcdef"
	}
	if last != "" && strings.Trim(last, digits) == "" {
		return forbid("%.100s is neither a host name nor an IP address; write IPv4 addresses as four decimal numbers without leading zeros", host)
	}
	return nil
}

// asciiHost returns the host of a URL as it is connected to: in lower case, with digits and dots of other scripts as those of ASCII.
func asciiHost(host string) (string, error) {
	if strings.IndexFunc(host, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
		return lower(host), nil
	}
	name, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return "", forbid("%.100s is not a valid host name; correct the URL", host)
	}
	return name, nil
}

func checkAddress(address netip.Addr, allowed []netip.Prefix) error {
	address = address.Unmap().WithZone("")
	contains := func(prefix netip.Prefix) bool { return prefix.Contains(address) }
	if slices.ContainsFunc(allowed, contains) {
		return nil
	}
	for _, f := range forbidden {
		if contains(f.prefix) {
			return forbid("%s is a forbidden address (%s); use another host, or start the operator with --sink-allow-cidrs=%s",
				address, f.kind, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	if address.Is4() {
		return nil
	}
	for _, embedded := range embeddedIPv4(address) {
		if err := checkAddress(embedded, allowed); err != nil {
			return err
		}
	}
	return nil
}
