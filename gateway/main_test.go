package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// environment names addresses where nothing listens, and ports that were free a moment ago.
func environment(t *testing.T) map[string]string {
	t.Helper()
	variables := map[string]string{gatewayAddressVariable: freeAddress(t), metricsAddressVariable: freeAddress(t)}
	for _, service := range services {
		variables[addressVariable(service.name)] = freeAddress(t)
	}
	return variables
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(listener)
	return listener.Addr().String()
}

func runWith(ctx context.Context, variables map[string]string) (exitCode int, said string) {
	stderr := &lockedBuffer{}
	exitCode = run(ctx, func(name string) string { return variables[name] }, stderr)
	return exitCode, stderr.String()
}

func TestEachMissingOrBadVariableIsNamedInOneLine(t *testing.T) {
	for name, bad := range map[string][]string{
		"TOLLBOOK_GATEWAY_ADDRESS":   {"", "8080", "127.0.0.1", ":8080", "127.0.0.1:http", "127.0.0.1:65536"},
		"TOLLBOOK_METRICS_ADDRESS":   {"", "127.0.0.1:-1"},
		"TOLLBOOK_METERING_ADDRESS":  {"", "http://127.0.0.1:1", "127.0.0.1:0"},
		"TOLLBOOK_QUOTA_ADDRESS":     {""},
		"TOLLBOOK_BILLING_ADDRESS":   {""},
		"TOLLBOOK_ANALYTICS_ADDRESS": {""},
		"TOLLBOOK_ACCOUNTS_ADDRESS":  {""},
		"TOLLBOOK_LOG_LEVEL":         {"LOUD"},
	} {
		for _, value := range bad {
			variables := maps.Clone(environment(t))
			variables[name] = value
			exitCode, said := runWith(t.Context(), variables)
			expect(t, name+"="+value, exitCode, 2)
			if !strings.HasPrefix(said, "tollbook-gateway: "+name+" ") || strings.Count(said, "\n") != 1 {
				t.Errorf("%s=%s: %q", name, value, said)
			}
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(taken)
	for _, name := range []string{gatewayAddressVariable, metricsAddressVariable} {
		variables := environment(t)
		variables[name] = taken.Addr().String()
		exitCode, said := runWith(t.Context(), variables)
		expect(t, name, exitCode, 3)
		want := fmt.Sprintf("tollbook-gateway: %s: cannot listen on %s: bind: address already in use\n", name, taken.Addr())
		expect(t, "message", said, want)
	}
}

func TestARequestInFlightIsAnsweredBeforeTheProcessEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	entered, proceed := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-proceed
		writeJSON(w, http.StatusOK, []byte(`{}`))
	})
	listeners := [2]net.Listener{}
	for i := range listeners {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = listener
	}
	logs := &lockedBuffer{}
	built := &gateway{handler: slow, metricsHandler: slow, readiness: newReadiness(nil, slog.New(slog.DiscardHandler), time.Now)}
	ended := make(chan int, 1)
	go func() { ended <- serve(ctx, configureLogs(logs, 0), built, listeners[0], listeners[1]) }()

	answered := make(chan int, 1)
	go func() {
		response, err := http.Get("http://" + listeners[0].Addr().String())
		if err != nil {
			answered <- 0
			return
		}
		closeQuietly(response.Body)
		answered <- response.StatusCode
	}()
	<-entered
	stop()
	// Draining has begun once the listener is closed.
	for {
		connection, err := net.Dial("tcp", listeners[0].Addr().String())
		if err != nil {
			break
		}
		closeQuietly(connection)
	}
	select {
	case <-ended:
		t.Error("ended before its request did")
	default:
	}
	close(proceed)
	expect(t, "answer", <-answered, http.StatusOK)
	expect(t, "exit code", <-ended, 0)
}

func TestItStartsAndStopsWithEveryServiceDown(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	variables := environment(t)
	ended := make(chan int, 1)
	go func() {
		exitCode, _ := runWith(ctx, variables)
		ended <- exitCode
	}()
	for _, url := range []string{
		"http://" + variables[gatewayAddressVariable] + "/healthz", "http://" + variables[metricsAddressVariable] + "/metrics",
	} {
		for {
			response, err := http.Get(url)
			if err != nil {
				continue // not listening yet
			}
			closeQuietly(response.Body)
			expect(t, url, response.StatusCode, http.StatusOK)
			break
		}
	}
	stop()
	expect(t, "exit code", <-ended, 0)
}
