package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// calls sends unary calls over as many connections.
type calls struct {
	method      string
	metadata    metadata.MD
	connections []*grpc.ClientConn
}

func dial(load *Load) (Sender, error) {
	opened := &calls{method: load.Method, metadata: metadata.New(load.Metadata)}
	for range max(1, load.Connections) {
		connection, err := grpc.NewClient(load.Target,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asItIs{}), grpc.WaitForReady(true),
				grpc.MaxCallRecvMsgSize(64<<20)),
			// Each a connection of its own, which the kernel may hand to another process of the same port.
			grpc.WithSharedWriteBuffer(false),
		)
		if err != nil {
			return nil, err
		}
		opened.connections = append(opened.connections, connection)
	}
	return opened, nil
}

func (c *calls) Send(ctx context.Context, caller int, request []byte) ([]byte, error) {
	ctx = metadata.NewOutgoingContext(ctx, c.metadata)
	var answer []byte
	err := c.connections[caller%len(c.connections)].Invoke(ctx, c.method, request, &answer)
	return answer, err
}

func (c *calls) Close() {
	for _, connection := range c.connections {
		_ = connection.Close()
	}
}

// asItIs neither encodes nor decodes: that work is not what is measured.
type asItIs struct{}

func (asItIs) Name() string { return "proto" }

func (asItIs) Marshal(value any) (mem.BufferSlice, error) {
	data, ok := value.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no bytes", value)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}, nil
}

func (asItIs) Unmarshal(data mem.BufferSlice, value any) error {
	answer, ok := value.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no *[]byte", value)
	}
	*answer = data.Materialize()
	return nil
}

// tally counts answers by what they say.
type tally struct {
	errors, decisions map[string]int
	bytesOut, bytesIn int
}

func newTally() tally {
	return tally{errors: map[string]int{}, decisions: map[string]int{}}
}

func (t *tally) note(request, answer []byte, err error) {
	if err != nil {
		t.errors[status.Code(err).String()]++
		return
	}
	t.bytesOut, t.bytesIn = len(request), len(answer)
	t.decisions[decision(answer)]++
}

func (t *tally) add(other *tally) {
	for code, count := range other.errors {
		t.errors[code] += count
	}
	for each, count := range other.decisions {
		t.decisions[each] += count
	}
	t.bytesOut, t.bytesIn = max(t.bytesOut, other.bytesOut), max(t.bytesIn, other.bytesIn)
}

// decision is the first field of a CheckResponse, without the cost of decoding all of it.
func decision(answer []byte) string {
	number, kind, length := protowire.ConsumeTag(answer)
	if length < 0 || number != 1 || kind != protowire.VarintType {
		return "other"
	}
	value, length := protowire.ConsumeVarint(answer[length:])
	if length < 0 {
		return "other"
	}
	return fmt.Sprint(value)
}
