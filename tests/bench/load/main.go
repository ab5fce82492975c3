// Load sends requests that were encoded beforehand and measures the answers: at a pace of its own (open loop) or from
// so many callers that each wait for an answer before they ask again (closed loop).
//
// It is in Go, so that the client of a benchmark of Python servers is not what is measured; it says what it used of the
// CPU itself. It reads one Load as JSON from its standard input and writes one Outcome to its standard output.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Load is what to send, where to, and how fast.
type Load struct {
	Target   string            `json:"target"`
	Method   string            `json:"method"`   // "/package.Service/Method"; "redis": see pipelined
	Metadata map[string]string `json:"metadata"` // of every call
	// Requests are sent in turn. In each, every run of 16 "#" becomes a number that no other request of the run has.
	Requests    [][]byte `json:"requests"`
	Connections int      `json:"connections"`
	Callers     int      `json:"callers"`      // how many ask at once, at most, in either loop
	Rate        float64  `json:"rate"`         // calls a second, at random moments (Poisson); 0: closed loop
	Calls       int      `json:"calls"`        // stop after so many; 0: after Seconds
	WarmSeconds float64  `json:"warm_seconds"` // sent before, and not measured
	Seconds     float64  `json:"seconds"`
	FirstNumber uint64   `json:"first_number"` // of those that replace the "#"
	Pipeline    int      `json:"pipeline"`     // "redis": commands sent before their answers are read
}

// Outcome is what came back.
type Outcome struct {
	Calls       int                `json:"calls"` // answered, within the measured time
	Seconds     float64            `json:"seconds"`
	CPUSeconds  float64            `json:"cpu_seconds"` // this process', in the measured time
	Errors      map[string]int     `json:"errors"`      // by status code; over the warm-up too, as are the decisions
	Decisions   map[string]int     `json:"decisions"`   // by the number of the enum
	BytesOut    int                `json:"bytes_out"`   // of one request and of one answer, the last of each
	BytesIn     int                `json:"bytes_in"`
	LatenciesMS map[string]float64 `json:"latencies_ms"`  // from when a call was due (open loop) or sent (closed)
	Dispatched  int                `json:"dispatched"`    // open loop: how many were due
	PacerLateMS float64            `json:"pacer_late_ms"` // open loop: by how much the pacer itself was late, p99
}

// A Sender asks once: with the bytes of a request, of which it keeps nothing, by a caller of that number.
type Sender interface {
	Send(ctx context.Context, caller int, request []byte) (answer []byte, err error)
	Close()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run() error {
	var load Load
	if err := json.NewDecoder(os.Stdin).Decode(&load); err != nil {
		return err
	}
	if load.Method == "redis" {
		outcome, err := pipelined(&load)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(outcome)
	}
	sender, err := dial(&load)
	if err != nil {
		return err
	}
	defer sender.Close()
	measured := &measuring{load: &load, sender: sender, numbers: numbers{next: load.FirstNumber}}
	measured.workers = make([]worker, load.Callers)
	for index := range measured.workers {
		measured.workers[index].tally = newTally()
	}
	if load.WarmSeconds > 0 {
		measured.round(load.WarmSeconds, 0, true)
	}
	return json.NewEncoder(os.Stdout).Encode(measured.round(load.Seconds, load.Calls, false))
}

type measuring struct {
	load    *Load
	sender  Sender
	numbers numbers
	workers []worker
}

type worker struct {
	latencies []time.Duration
	tally     tally
	answered  int // within the time
}

// round asks for so long, or so often, and says what came of it.
func (m *measuring) round(seconds float64, calls int, warm bool) Outcome {
	for index := range m.workers {
		m.workers[index].latencies = m.workers[index].latencies[:0]
		m.workers[index].answered = 0
	}
	before, started := cpuSeconds(), time.Now()
	ends := started.Add(time.Duration(seconds * float64(time.Second)))
	var dispatched int
	var late []time.Duration
	if m.load.Rate > 0 {
		dispatched, late = m.open(started, ends)
	} else {
		m.closed(ends, calls)
	}
	took := time.Since(started).Seconds()
	used := cpuSeconds() - before
	if calls == 0 && m.load.Rate == 0 {
		took = seconds
	}
	if warm {
		return Outcome{}
	}
	outcome := Outcome{Seconds: took, CPUSeconds: used, Dispatched: dispatched, PacerLateMS: milliseconds(at(late, 0.99))}
	all := newTally()
	var latencies []time.Duration
	for index := range m.workers {
		latencies = append(latencies, m.workers[index].latencies...)
		outcome.Calls += m.workers[index].answered
		all.add(&m.workers[index].tally)
	}
	outcome.Errors, outcome.Decisions = all.errors, all.decisions
	outcome.BytesOut, outcome.BytesIn = all.bytesOut, all.bytesIn
	slices.Sort(latencies)
	outcome.LatenciesMS = map[string]float64{
		"p50": milliseconds(at(latencies, 0.5)), "p99": milliseconds(at(latencies, 0.99)),
		"p99.9": milliseconds(at(latencies, 0.999)), "max": milliseconds(at(latencies, 1)),
	}
	return outcome
}

// closed lets every caller ask again as soon as it is answered.
func (m *measuring) closed(ends time.Time, calls int) {
	var group sync.WaitGroup
	for caller := range m.workers {
		group.Go(func() {
			each := &m.workers[caller]
			for {
				number, request := m.numbers.take(m.load.Requests)
				if calls > 0 && number >= m.load.FirstNumber+uint64(calls) {
					return
				}
				sent := time.Now()
				if calls == 0 && sent.After(ends) {
					return
				}
				m.ask(each, caller, request, sent, ends, calls > 0)
			}
		})
	}
	group.Wait()
}

// open asks at random moments of a fixed rate, whatever became of the calls before: a slow answer makes no room.
func (m *measuring) open(started, ends time.Time) (int, []time.Duration) {
	type due struct {
		at      time.Time
		request []byte
	}
	// As deep as all that can be due: the pacer never waits for a caller.
	queue := make(chan due, int(m.load.Rate*ends.Sub(started).Seconds()*2)+1000)
	var group sync.WaitGroup
	for caller := range m.workers {
		group.Go(func() {
			for next := range queue {
				m.ask(&m.workers[caller], caller, next.request, next.at, ends, true)
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	var late []time.Duration
	count := 0
	for moment := started; ; count++ {
		moment = moment.Add(time.Duration(random.ExpFloat64() / m.load.Rate * float64(time.Second)))
		if moment.After(ends) {
			break
		}
		time.Sleep(time.Until(moment))
		late = append(late, time.Since(moment))
		_, request := m.numbers.take(m.load.Requests)
		queue <- due{moment, request}
	}
	close(queue)
	group.Wait()
	slices.Sort(late)
	return count, late
}

func (m *measuring) ask(each *worker, caller int, request []byte, since, ends time.Time, always bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := m.sender.Send(ctx, caller, request)
	now := time.Now()
	each.tally.note(request, answer, err)
	each.latencies = append(each.latencies, now.Sub(since))
	if err == nil && (always || !now.After(ends)) {
		each.answered++
	}
}

// numbers makes each request its own by a number.
type numbers struct {
	lock sync.Mutex
	next uint64
}

func (n *numbers) take(requests [][]byte) (uint64, []byte) {
	n.lock.Lock()
	number := n.next
	n.next++
	n.lock.Unlock()
	return number, numbered(requests[number%uint64(len(requests))], number)
}

const placeholder = 16

// numbered is the request with each run of 16 "#" replaced: by the number and by its place among the runs.
func numbered(request []byte, number uint64) []byte {
	var changed []byte
	run, place := 0, uint64(0)
	for index, value := range request {
		if value != '#' {
			run = 0
			continue
		}
		if run++; run < placeholder {
			continue
		}
		if changed == nil {
			changed = slices.Clone(request)
		}
		copy(changed[index-placeholder+1:], fmt.Appendf(nil, "%012x%04x", number, place))
		run = 0
		place++
	}
	if changed == nil {
		return request
	}
	return changed
}

func at(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

func milliseconds(duration time.Duration) float64 {
	return float64(duration) / float64(time.Millisecond)
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
