package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/grpclog"
)

var levelNames = map[slog.Level]string{
	slog.LevelDebug: "debug",
	slog.LevelInfo:  "info",
	slog.LevelWarn:  "warning",
	slog.LevelError: "error",
}

// configureLogs answers the logger: one JSON object a line, with the keys that the services use.
func configureLogs(out io.Writer, level slog.Level) *slog.Logger {
	handler := slog.NewJSONHandler(out, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attribute slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return attribute
			}
			switch attribute.Key {
			case slog.TimeKey:
				return slog.String("timestamp", attribute.Value.Time().UTC().Format(time.RFC3339Nano))
			case slog.LevelKey:
				return slog.String("level", levelNames[attribute.Value.Any().(slog.Level)])
			case slog.MessageKey:
				return slog.Attr{Key: "event", Value: attribute.Value}
			default:
				return attribute
			}
		},
	})
	return slog.New(handler).With("service", "gateway")
}

// adoptGRPCLogs turns the lines that gRPC's library writes into ours. Below an error it says nothing that a request's line
// does not. The library allows this once, before anything else uses it.
func adoptGRPCLogs(log *slog.Logger) {
	grpcErrors := slog.NewLogLogger(log.Handler(), slog.LevelError).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, grpcErrors))
}

// configureTracing exports spans over OTLP in the background, to where the OTEL_ variables say. It answers how to send
// the last ones.
func configureTracing(ctx context.Context, enabled bool) (func(), error) {
	if !enabled {
		return func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	// The environment has the last word on the name.
	identity, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "tollbook-gateway")), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(identity))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), traceFlushTimeout)
		defer cancel()
		_ = provider.Shutdown(ctx)
	}, nil
}

// traced begins a span for every request but probes. The caller's own trace is linked to and not continued: whoever calls
// from outside must not choose our trace ids.
func traced(next http.Handler, enabled bool) http.Handler {
	if !enabled {
		return next
	}
	return otelhttp.NewHandler(next, "request",
		otelhttp.WithPublicEndpointFn(func(*http.Request) bool { return true }),
		otelhttp.WithFilter(func(r *http.Request) bool { return !isProbe(r.URL.Path) }))
}
