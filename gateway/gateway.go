package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
)

// gateway is everything put together, before any socket listens.
type gateway struct {
	handler        http.Handler
	metricsHandler http.Handler
	readiness      *readiness
	connections    map[string]*grpc.ClientConn
}

// newGateway connects lazily: a service that is down is a matter of readiness, not of starting.
func newGateway(settings settings, log *slog.Logger) (*gateway, error) {
	built := &gateway{connections: map[string]*grpc.ClientConn{}}
	for _, service := range services {
		connection, err := connect(settings.serviceAddress[service.name], settings.tracing)
		if err != nil {
			built.close()
			return nil, fmt.Errorf("%s: %w", addressVariable(service.name), err)
		}
		built.connections[service.name] = connection
	}
	built.readiness = newReadiness(built.connections, log, time.Now)
	mux, err := newMux(context.Background(), built.connections, built.readiness)
	if err != nil {
		built.close()
		return nil, err
	}
	measures := newMeasures(built.readiness)
	built.handler = traced(edge(mux, measures, log), settings.tracing)
	built.metricsHandler = promhttp.HandlerFor(measures.registry, promhttp.HandlerOpts{})
	return built, nil
}

func (g *gateway) close() {
	for _, connection := range g.connections {
		closeQuietly(connection)
	}
}

// newServer bounds what a slow or hostile client can hold on to.
func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // 8 MiB at 280 kB/s
		// The upstream deadline and as much again for a slow reader. What streams answers extends it for itself.
		WriteTimeout:   60 * time.Second,
		IdleTimeout:    120 * time.Second, // above the 60 s after which common balancers drop an idle connection
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
