// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Numbers of include/uapi/linux/rtnetlink.h and its neighbours that package syscall has not.
const (
	rtmNewRule     = 32
	rtmNewQdisc    = 36
	rtmNewNextHop  = 104
	rtmNewLinkProp = 108

	iflaMask        = 29 // IFLA_EXT_MASK
	iflaGroup       = 27
	iflaNetnsID     = 37 // IFLA_LINK_NETNSID
	iflaXDP         = 43
	iflaPropList    = 52
	iflaAltName     = 53
	iflaPermAddress = 54

	skipStats = 8 // RTEXT_FILTER_SKIP_STATS
	nested    = 1 << 15
)

var native = nl.NativeEndian()

// headLen is the length of the fixed header of each kind of message, by its number.
var headLen = map[uint16]int{
	syscall.RTM_NEWLINK:  syscall.SizeofIfInfomsg,
	syscall.RTM_NEWADDR:  syscall.SizeofIfAddrmsg,
	syscall.RTM_NEWROUTE: syscall.SizeofRtMsg,
	syscall.RTM_NEWNEIGH: 12, // struct ndmsg
	rtmNewRule:           12, // struct fib_rule_hdr
	rtmNewQdisc:          20, // struct tcmsg
	rtmNewNextHop:        8,  // struct nhmsg
}

// attribute is a netlink attribute, its number with the flags of the upper two bits.
type attribute struct {
	number uint16
	data   []byte
}

func (a attribute) is(number uint16) bool { return a.number&0x3fff == number }

// message is one message of rtnetlink as the kernel writes and reads it: a fixed header and attributes. What is saved
// is given back as it was, so an attribute this package does not know is not lost.
type message struct {
	kind  uint16 // RTM_NEW…
	head  []byte
	attrs []attribute
}

func decode(kind uint16, b []byte) (*message, error) {
	n := headLen[kind]
	if n == 0 || len(b) < n {
		return nil, fmt.Errorf("decode netlink message %d: %d bytes", kind, len(b))
	}
	attrs, err := decodeAttrs(b[n:])
	if err != nil {
		return nil, fmt.Errorf("decode netlink message %d: %w", kind, err)
	}
	return &message{kind: kind, head: append([]byte(nil), b[:n]...), attrs: attrs}, nil
}

// errAttribute is an attribute that says it is longer than the message, or shorter than itself.
var errAttribute = errors.New("attribute of a wrong length")

// decodeAttrs reads {u16 length with these four bytes, u16 number} and the data, padded to four bytes, each. The
// library's ParseRouteAttr (1.3.1) panics over a last one without padding, which a damaged file could have.
func decodeAttrs(b []byte) ([]attribute, error) {
	var attrs []attribute
	for len(b) >= 4 {
		n := int(native.Uint16(b))
		if n < 4 || n > len(b) {
			return nil, errAttribute
		}
		attrs = append(attrs, attribute{number: native.Uint16(b[2:]), data: append([]byte(nil), b[4:n]...)})
		b = b[min((n+3)&^3, len(b)):]
	}
	return attrs, nil
}

func encodeAttrs(attrs []attribute) []byte {
	var b []byte
	for _, a := range attrs {
		b = append(b, nl.NewRtAttr(int(a.number), a.data).Serialize()...)
	}
	return b
}

func (m *message) encode() []byte {
	return append(append([]byte(nil), m.head...), encodeAttrs(m.attrs)...)
}

// find returns the first attribute of that number, nil when there is none.
func find(attrs []attribute, number uint16) []byte {
	for _, a := range attrs {
		if a.is(number) {
			return a.data
		}
	}
	return nil
}

func (m *message) find(number uint16) []byte { return find(m.attrs, number) }

// u32 reads an attribute that is a number, 0 when it is missing.
func (m *message) u32(number uint16) uint32 { return u32(m.find(number)) }

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

// drop removes attributes.
func (m *message) drop(numbers ...uint16) {
	var kept []attribute
next:
	for _, a := range m.attrs {
		for _, n := range numbers {
			if a.is(n) {
				continue next
			}
		}
		kept = append(kept, a)
	}
	m.attrs = kept
}

// set replaces an attribute or adds it.
func (m *message) set(number uint16, data []byte) {
	for i, a := range m.attrs {
		if a.is(number) {
			m.attrs[i].data = data
			return
		}
	}
	m.attrs = append(m.attrs, attribute{number: number, data: data})
}

func (m *message) family() byte { return m.head[0] }

// dump asks for all messages of a kind, of the family in the request. A kernel that does not know the kind has none. Nor has
// one without rules of the family (ipv6.disable=1, or no CONFIG_IPV6_MULTIPLE_TABLES), which says EAFNOSUPPORT
// (net/core/fib_rules.c, fib_nl_dumprule). A dump that was interrupted by a change is asked for again.
func dump(kind uint16, request []byte) ([]*message, error) {
	var list []*message
	var raw [][]byte
	var err error
	for range 10 {
		req := nl.NewNetlinkRequest(int(kind)+2, syscall.NLM_F_DUMP) // RTM_GET…
		req.AddRawData(request)
		raw, err = req.Execute(syscall.NETLINK_ROUTE, kind)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask kernel for netlink messages %d: %w", kind, err)
	}
	for _, b := range raw {
		m, err := decode(kind, b)
		if err != nil {
			return nil, err
		}
		// Where nobody answers for a family, the answer is that of all (net/core/rtnetlink.c, rtnetlink_rcv_msg).
		if family := request[0]; family == syscall.AF_UNSPEC || m.family() == family {
			list = append(list, m)
		}
	}
	return list, nil
}

// send gives a message to the kernel and waits for its answer. Privilege: CAP_NET_ADMIN.
func send(kind uint16, flags int, m *message) error {
	req := nl.NewNetlinkRequest(int(kind), flags|syscall.NLM_F_ACK)
	req.AddRawData(m.encode())
	_, err := req.Execute(syscall.NETLINK_ROUTE, 0)
	return err
}

// header makes the header of a message of that kind for one address family.
func header(kind uint16, family byte) []byte {
	b := make([]byte, headLen[kind])
	b[0] = family
	return b
}

// linkMessage makes a message about the link with that index, 0 for a new one.
func linkMessage(index int, attrs ...attribute) *message {
	m := &message{kind: syscall.RTM_NEWLINK, head: header(syscall.RTM_NEWLINK, syscall.AF_UNSPEC), attrs: attrs}
	native.PutUint32(m.head[4:], uint32(index))
	return m
}

// str reads a string that ends with a zero byte.
func str(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func text(s string) []byte { return nl.ZeroTerminated(s) }

func number(n int) []byte { return nl.Uint32Attr(uint32(n)) }
