package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	accountsv1 "tollbook.dev/tollbook/gen/go/tollbook/accounts/v1"
	analyticsv1 "tollbook.dev/tollbook/gen/go/tollbook/analytics/v1"
	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
	quotav1 "tollbook.dev/tollbook/gen/go/tollbook/quota/v1"
)

// suite is a gateway in front of real gRPC servers, one per service, whose methods answer as a test says.
type suite struct {
	url     string
	logs    *lockedBuffer
	gateway *gateway
	health  map[string]*health.Server
	servers map[string]*grpc.Server

	check       func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error)
	costSummary func(context.Context, *analyticsv1.GetCostSummaryRequest) (*analyticsv1.GetCostSummaryResponse, error)
	recordUsage func(context.Context, *meteringv1.RecordUsageRequest) (*meteringv1.RecordUsageResponse, error)
	cloudEvents func(context.Context, *meteringv1.IngestCloudEventsRequest) (*meteringv1.IngestCloudEventsResponse, error)
	getInvoice  func(context.Context, *billingv1.GetInvoiceRequest) (*billingv1.GetInvoiceResponse, error)
	stripeEvent func(context.Context, *billingv1.HandleStripeEventRequest) (*billingv1.HandleStripeEventResponse, error)
}

func startSuite(t *testing.T) *suite {
	t.Helper()
	s := &suite{
		logs: &lockedBuffer{}, health: map[string]*health.Server{}, servers: map[string]*grpc.Server{},
		check:       unset[*quotav1.CheckRequest, *quotav1.CheckResponse],
		costSummary: unset[*analyticsv1.GetCostSummaryRequest, *analyticsv1.GetCostSummaryResponse],
		recordUsage: unset[*meteringv1.RecordUsageRequest, *meteringv1.RecordUsageResponse],
		cloudEvents: unset[*meteringv1.IngestCloudEventsRequest, *meteringv1.IngestCloudEventsResponse],
		getInvoice:  unset[*billingv1.GetInvoiceRequest, *billingv1.GetInvoiceResponse],
		stripeEvent: unset[*billingv1.HandleStripeEventRequest, *billingv1.HandleStripeEventResponse],
	}
	register := map[string]func(*grpc.Server){
		"metering": func(to *grpc.Server) {
			meteringv1.RegisterMeteringServiceServer(to, fakeMetering{suite: s})
			meteringv1.RegisterCloudEventsServiceServer(to, fakeCloudEvents{suite: s})
		},
		"quota": func(to *grpc.Server) { quotav1.RegisterQuotaServiceServer(to, fakeQuota{suite: s}) },
		"billing": func(to *grpc.Server) {
			billingv1.RegisterBillingServiceServer(to, fakeBilling{suite: s})
			billingv1.RegisterCatalogServiceServer(to, billingv1.UnimplementedCatalogServiceServer{})
			billingv1.RegisterBillingProfileServiceServer(to, billingv1.UnimplementedBillingProfileServiceServer{})
			billingv1.RegisterLegalEntityServiceServer(to, billingv1.UnimplementedLegalEntityServiceServer{})
			billingv1.RegisterCreditServiceServer(to, billingv1.UnimplementedCreditServiceServer{})
			billingv1.RegisterCouponServiceServer(to, billingv1.UnimplementedCouponServiceServer{})
			billingv1.RegisterCreditNoteServiceServer(to, billingv1.UnimplementedCreditNoteServiceServer{})
			billingv1.RegisterRevenueServiceServer(to, billingv1.UnimplementedRevenueServiceServer{})
			billingv1.RegisterPaymentServiceServer(to, billingv1.UnimplementedPaymentServiceServer{})
			billingv1.RegisterReconciliationServiceServer(to, billingv1.UnimplementedReconciliationServiceServer{})
			billingv1.RegisterStripeWebhookServiceServer(to, fakeStripeWebhook{suite: s})
		},
		"analytics": func(to *grpc.Server) {
			analyticsv1.RegisterAnalyticsServiceServer(to, fakeAnalytics{suite: s})
			analyticsv1.RegisterPriceServiceServer(to, analyticsv1.UnimplementedPriceServiceServer{})
		},
		"accounts": func(to *grpc.Server) {
			accountsv1.RegisterAccountsServiceServer(to, accountsv1.UnimplementedAccountsServiceServer{})
		},
	}
	configured := settings{serviceAddress: map[string]string{}}
	for name, registerOn := range register {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(grpc.MaxRecvMsgSize(upstreamAnswerBytes)) // as the services
		registerOn(server)
		s.health[name] = health.NewServer()
		grpc_health_v1.RegisterHealthServer(server, s.health[name])
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		s.servers[name] = server
		configured.serviceAddress[name] = listener.Addr().String()
	}
	log := configureLogs(s.logs, slog.LevelDebug)
	built, err := newGateway(configured, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(built.close)
	s.gateway = built
	server := httptest.NewUnstartedServer(nil)
	server.Config = newServer(built.handler, log)
	server.Start()
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// unset is a method that a test says nothing of.
func unset[Request, Answer any](context.Context, Request) (Answer, error) {
	var none Answer
	return none, status.Error(codes.Unimplemented, "unset")
}

type answer struct {
	status  int
	headers http.Header
	body    []byte
}

// json answers the body as decoded JSON; it must be some.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var decoded map[string]any
	if err := json.Unmarshal(a.body, &decoded); err != nil {
		t.Fatalf("not JSON: %q", a.body)
	}
	return decoded
}

// reason checks that the body has the form of an error and answers its ErrorInfo.
func (a answer) reason(t *testing.T) string {
	t.Helper()
	body := a.json(t)
	if _, ok := body["code"].(float64); !ok {
		t.Errorf("no code: %s", a.body)
	}
	if message, _ := body["message"].(string); message == "" {
		t.Errorf("no message: %s", a.body)
	}
	details, _ := body["details"].([]any)
	for _, detail := range details {
		info := detail.(map[string]any)
		if info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo" {
			if info["domain"] != "tollbook.dev" {
				t.Errorf("domain %v", info["domain"])
			}
			return info["reason"].(string)
		}
	}
	t.Fatalf("no ErrorInfo: %s", a.body)
	return ""
}

// call sends a request with the given headers, "Name: value" each.
func (s *suite) call(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	return s.send(t, method, path, strings.NewReader(body), headers...)
}

func (s *suite) send(t *testing.T, method, path string, body io.Reader, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Add(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(response.Body)
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, content}
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// metadataOf answers what a fake service received beside the request.
func metadataOf(ctx context.Context) metadata.MD {
	received, _ := metadata.FromIncomingContext(ctx)
	return received
}

type lockedBuffer struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (b *lockedBuffer) Write(line []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.Write(line)
}

func (b *lockedBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.String()
}

type fakeQuota struct {
	quotav1.UnimplementedQuotaServiceServer
	suite *suite
}

func (f fakeQuota) Check(ctx context.Context, request *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
	return f.suite.check(ctx, request)
}

type fakeAnalytics struct {
	analyticsv1.UnimplementedAnalyticsServiceServer
	suite *suite
}

func (f fakeAnalytics) GetCostSummary(
	ctx context.Context, request *analyticsv1.GetCostSummaryRequest,
) (*analyticsv1.GetCostSummaryResponse, error) {
	return f.suite.costSummary(ctx, request)
}

type fakeMetering struct {
	meteringv1.UnimplementedMeteringServiceServer
	suite *suite
}

func (f fakeMetering) RecordUsage(
	ctx context.Context, request *meteringv1.RecordUsageRequest,
) (*meteringv1.RecordUsageResponse, error) {
	return f.suite.recordUsage(ctx, request)
}

type fakeCloudEvents struct {
	meteringv1.UnimplementedCloudEventsServiceServer
	suite *suite
}

func (f fakeCloudEvents) IngestCloudEvents(
	ctx context.Context, request *meteringv1.IngestCloudEventsRequest,
) (*meteringv1.IngestCloudEventsResponse, error) {
	return f.suite.cloudEvents(ctx, request)
}

type fakeBilling struct {
	billingv1.UnimplementedBillingServiceServer
	suite *suite
}

func (f fakeBilling) GetInvoice(
	ctx context.Context, request *billingv1.GetInvoiceRequest,
) (*billingv1.GetInvoiceResponse, error) {
	return f.suite.getInvoice(ctx, request)
}

type fakeStripeWebhook struct {
	billingv1.UnimplementedStripeWebhookServiceServer
	suite *suite
}

func (f fakeStripeWebhook) HandleStripeEvent(
	ctx context.Context, request *billingv1.HandleStripeEventRequest,
) (*billingv1.HandleStripeEventResponse, error) {
	return f.suite.stripeEvent(ctx, request)
}
