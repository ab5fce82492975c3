package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
)

// What a service may say beside an OK answer, as trailing metadata: the HTTP status of an answer that REST callers are to
// notice (a denied check: 429), and when to come back.
const (
	httpStatusKey = "x-http-code"
	retryAfterKey = "retry-after"
)

// answerJSON says every field, so that a reader sees a zero as a zero; absent optional fields stay absent.
var answerJSON = protojson.MarshalOptions{EmitUnpopulated: true}

// newMux answers the routes: the contract's REST paths, and the few that are not calls.
func newMux(
	ctx context.Context, connections map[string]*grpc.ClientConn, readiness *readiness,
) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
			Marshaler: strictJSON{&runtime.JSONPb{MarshalOptions: answerJSON}},
		}),
		// No header becomes metadata (the credential does without being asked for) and no metadata becomes a header.
		runtime.WithIncomingHeaderMatcher(nothing),
		runtime.WithOutgoingHeaderMatcher(nothing),
		runtime.WithOutgoingTrailerMatcher(nothing),
		runtime.WithForwardResponseOption(heedService),
		runtime.WithErrorHandler(handleError),
		runtime.WithRoutingErrorHandler(handleRoutingError),
		runtime.WithMiddlewares(endTrials, noteRoute),
		// A POST is a POST: neither a header nor a content type turns it into something else.
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	for _, service := range services {
		for _, register := range service.registrations {
			if err := register(ctx, mux, connections[service.name]); err != nil {
				return nil, fmt.Errorf("registering %s: %w", service.name, err)
			}
		}
	}
	events := cloudEvents{meteringv1.NewCloudEventsServiceClient(connections[metering])}
	webhooks := stripeWebhooks{billingv1.NewStripeWebhookServiceClient(connections[billing])}
	routes := []struct {
		method, path string
		handler      runtime.HandlerFunc
	}{
		{http.MethodPost, "/api/v1/cloudevents", events.receive},
		{http.MethodPost, "/api/webhooks/stripe", webhooks.receive},
		{http.MethodGet, "/openapi.json", serveOpenAPI},
		{http.MethodGet, livenessPath, serveLiveness},
		{http.MethodGet, readinessPath, readiness.serve},
	}
	for _, route := range routes {
		if err := mux.HandlePath(route.method, route.path, route.handler); err != nil {
			return nil, fmt.Errorf("registering %s: %w", route.path, err)
		}
	}
	return mux, nil
}

// strictJSON takes a body that is one JSON value with known fields. A misspelt field, or a second value behind the first,
// would otherwise be ignored without a word.
type strictJSON struct{ *runtime.JSONPb }

func (j strictJSON) NewDecoder(body io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(target any) error {
		whole, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(whole)) == 0 {
			return io.EOF // which grpc-gateway takes for an empty request
		}
		if message, ok := target.(proto.Message); ok {
			return protojson.Unmarshal(whole, message)
		}
		return j.Unmarshal(whole, target)
	})
}

func nothing(string) (string, bool) { return "", false }

// noteRoute tells log, metrics and trace which template the path matched: raw paths hold ids.
func noteRoute(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, parameters map[string]string) {
		if pattern, ok := runtime.HTTPPattern(r.Context()); ok {
			route := strings.ReplaceAll(pattern.String(), "=*}", "}")
			exchangeOf(r.Context()).route = route
			trace.SpanFromContext(r.Context()).SetName(r.Method + " " + route)
		}
		next(w, r, parameters)
	}
}

// heedService gives an answer the status and the Retry-After that its service asked for.
func heedService(ctx context.Context, w http.ResponseWriter, _ proto.Message) error {
	said, _ := runtime.ServerMetadataFromContext(ctx)
	if seconds, ok := number(said.TrailerMD, retryAfterKey); ok {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	if status, ok := number(said.TrailerMD, httpStatusKey); ok && status >= 200 && status <= 599 {
		w.WriteHeader(status)
	}
	return nil
}

func number(said metadata.MD, key string) (int, bool) {
	values := said.Get(key)
	if len(values) == 0 {
		return 0, false
	}
	value, err := strconv.Atoi(values[0])
	return value, err == nil && value >= 0
}
