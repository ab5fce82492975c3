package main

import (
	"context"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

const (
	upstreamTimeout     = 10 * time.Second
	upstreamAnswerBytes = 16 << 20 // what the services may send

	authorizationKey = "authorization"
	requestIDKey     = "x-request-id"
)

// Only UNAVAILABLE is tried again: nothing was done then, or it was done under ids that make the repetition harmless.
// The throttle stops the retries of a service that fails most of its calls. round_robin spreads calls over the replicas
// that one name stands for.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{}],
    "retryPolicy": {
      "maxAttempts": 3,
      "initialBackoff": "0.05s",
      "maxBackoff": "0.5s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}
}`

// connect answers the one connection to a service; it connects by itself, and again after a loss, without end.
func connect(address string, tracing bool) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), // what the environment says of proxies is not meant for our own services
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(upstreamAnswerBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                30 * time.Second,
			Timeout:             5 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithUnaryInterceptor(callUpstream),
		grpc.WithStreamInterceptor(streamUpstream),
	}
	if tracing {
		// Probes are no part of any request.
		noProbes := otelgrpc.WithFilter(filters.Not(filters.HealthCheck()))
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler(noProbes)))
	}
	connection, err := grpc.NewClient(address, options...)
	if err != nil {
		return nil, err
	}
	connection.Connect()
	return connection, nil
}

func callUpstream(
	ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	// A caller may want less, with Grpc-Timeout, but not more.
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	return invoke(withOurMetadata(ctx), method, request, answer, connection, options...)
}

func streamUpstream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, open grpc.Streamer,
	options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return open(withOurMetadata(ctx), description, connection, method, options...)
}

// withOurMetadata is the one way out for metadata: one credential and the request id, whatever the request's headers
// were and whatever grpc-gateway made of them.
func withOurMetadata(ctx context.Context) context.Context {
	ours := metadata.MD{}
	theirs, _ := metadata.FromOutgoingContext(ctx)
	if credentials := theirs.Get(authorizationKey); len(credentials) > 0 {
		ours.Set(authorizationKey, credentials[0])
	}
	if exchange := exchangeOf(ctx); exchange.requestID != "" {
		ours.Set(requestIDKey, exchange.requestID)
	}
	return metadata.NewOutgoingContext(ctx, ours)
}
