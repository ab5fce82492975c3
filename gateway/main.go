// The gateway speaks REST to the world and gRPC to the services: grpc-gateway in front of five connections, and no
// business rule. See README.md for what it promises.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	exitBadSettings   = 2
	exitCannotListen  = 3
	exitCannotStart   = 1
	drainTimeout      = 10 * time.Second
	traceFlushTimeout = 500 * time.Millisecond
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The first signal drains; from then on signals are the system's again, so a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	adoptGRPCLogs(configureLogs(os.Stderr, slog.LevelError))
	os.Exit(run(ctx, os.Getenv, os.Stderr))
}

// run serves until ctx ends, then drains. It answers the process' exit code.
func run(ctx context.Context, getenv func(string) string, stderr io.Writer) int {
	settings, problems := readSettings(getenv)
	if len(problems) > 0 {
		complain(stderr, problems...)
		return exitBadSettings
	}
	log := configureLogs(stderr, settings.logLevel)

	listener, err := listen(gatewayAddressVariable, settings.address)
	if err != nil {
		complain(stderr, err)
		return exitCannotListen
	}
	defer closeQuietly(listener)
	metricsListener, err := listen(metricsAddressVariable, settings.metricsAddress)
	if err != nil {
		complain(stderr, err)
		return exitCannotListen
	}
	defer closeQuietly(metricsListener)

	flushTraces, err := configureTracing(ctx, settings.tracing)
	if err != nil {
		complain(stderr, fmt.Errorf("%s: %w", otlpEndpointVariable, err))
		return exitBadSettings
	}
	defer flushTraces()

	gateway, err := newGateway(settings, log)
	if err != nil {
		complain(stderr, err)
		return exitCannotStart
	}
	defer gateway.close()

	return serve(ctx, log, gateway, listener, metricsListener)
}

func listen(variable, address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		var cause *net.OpError
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("%s: cannot listen on %s: %w", variable, address, err)
	}
	return listener, nil
}

func serve(ctx context.Context, log *slog.Logger, gateway *gateway, listener, metricsListener net.Listener) int {
	servers := map[*http.Server]net.Listener{
		newServer(gateway.handler, log):        listener,
		newServer(gateway.metricsHandler, log): metricsListener,
	}
	failed := make(chan error, len(servers))
	for server, its := range servers {
		go func() { failed <- server.Serve(its) }()
	}
	log.Info("listening", "address", listener.Addr().String(), "metrics_address", metricsListener.Addr().String())

	exitCode := 0
	select {
	case <-ctx.Done():
		log.Info("draining")
	case err := <-failed:
		log.Error("cannot_serve", "error", err.Error())
		exitCode = exitCannotStart
	}
	// Balancers see 503 on requests that still come over open connections; the listeners close below.
	gateway.readiness.drain()
	deadline, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	for server := range servers {
		if err := server.Shutdown(deadline); err != nil {
			log.Warn("drain_timed_out", "error", err.Error())
			closeQuietly(server)
		}
	}
	log.Info("stopped")
	return exitCode
}

func complain(stderr io.Writer, problems ...error) {
	for _, problem := range problems {
		_, _ = fmt.Fprintf(stderr, "tollbook-gateway: %v\n", problem)
	}
}

// closeQuietly is for what ends with the process anyway.
func closeQuietly(closer io.Closer) { _ = closer.Close() }
