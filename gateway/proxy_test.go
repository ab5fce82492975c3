package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	analyticsv1 "tollbook.dev/tollbook/gen/go/tollbook/analytics/v1"
	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
	quotav1 "tollbook.dev/tollbook/gen/go/tollbook/quota/v1"
)

func TestDeniedCheckIs429WithRetryAfterAndTheDecision(t *testing.T) {
	s := startSuite(t)
	s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-http-code", "429", "retry-after", "42")); err != nil {
			return nil, err
		}
		return &quotav1.CheckResponse{
			Decision: quotav1.Decision_DECISION_DENIED, Message: "Plan limit reached. Upgrade to continue.",
		}, nil
	}
	got := s.call(t, "POST", "/api/v1/quota:check", `{"consumptions": [{"meter": "agent_minutes", "quantity": "60000"}]}`)
	expect(t, "status", got.status, http.StatusTooManyRequests)
	expect(t, "Retry-After", got.headers.Get("Retry-After"), "42")
	expect(t, "Content-Type", got.headers.Get("Content-Type"), "application/json")
	expect(t, "decision", got.json(t)["decision"], "DECISION_DENIED")
	expect(t, "message", got.json(t)["message"], "Plan limit reached. Upgrade to continue.")
	for name := range got.headers {
		if strings.HasPrefix(name, "Grpc-") || name == "X-Http-Code" {
			t.Errorf("metadata leaked as %s", name)
		}
	}
}

func TestAllowedCheckIs200WithoutRetryAfter(t *testing.T) {
	s := startSuite(t)
	s.check = func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		return &quotav1.CheckResponse{Decision: quotav1.Decision_DECISION_ALLOWED}, nil
	}
	got := s.call(t, "POST", "/api/v1/quota:check", `{}`)
	expect(t, "status", got.status, http.StatusOK)
	expect(t, "Retry-After", got.headers.Get("Retry-After"), "")
	expect(t, "an unpopulated field is said", got.json(t)["degraded"], false)
}

func TestServiceCannotSetANonsensicalStatus(t *testing.T) {
	s := startSuite(t)
	for _, said := range []string{"teapot", "99", "-1", "600", ""} {
		s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
			return &quotav1.CheckResponse{}, grpc.SetTrailer(ctx, metadata.Pairs("x-http-code", said))
		}
		expect(t, said, s.call(t, "POST", "/api/v1/quota:check", `{}`).status, http.StatusOK)
	}
}

func TestOnlyCredentialAndRequestIDBecomeMetadata(t *testing.T) {
	s := startSuite(t)
	var received metadata.MD
	s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		received = metadataOf(ctx)
		return &quotav1.CheckResponse{}, nil
	}
	s.call(t, "POST", "/api/v1/quota:check", `{}`,
		"Authorization: Bearer tb_live_one", "Authorization: Bearer tb_live_two", "X-Request-Id: req-1",
		"Grpc-Metadata-Authorization: Bearer smuggled", "Grpc-Metadata-X-Request-Id: smuggled",
		"Grpc-Metadata-X-Organization: other", "Grpc-Metadata-Trace-Bin: AAAA", "Grpcgateway-Authorization: smuggled",
		"X-Forwarded-For: 10.1.2.3", "X-Forwarded-Host: evil.example", "Cookie: a=b", "Traceparent: 00-1-2-3", "X-Http-Code: 200")
	expect(t, "authorization", strings.Join(received.Get("authorization"), "|"), "Bearer tb_live_one")
	expect(t, "x-request-id", strings.Join(received.Get("x-request-id"), "|"), "req-1")
	// The transport's own.
	known := []string{":authority", "content-type", "user-agent", "authorization", "x-request-id", "grpc-accept-encoding"}
	for key := range received {
		if !slices.Contains(known, key) {
			t.Errorf("metadata %s: %v", key, received[key])
		}
	}
}

func TestRequestIDComesBackAndReachesTheService(t *testing.T) {
	s := startSuite(t)
	var received string
	s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		received = strings.Join(metadataOf(ctx).Get("x-request-id"), "|")
		return &quotav1.CheckResponse{}, nil
	}
	got := s.call(t, "POST", "/api/v1/quota:check", `{}`, "X-Request-Id: order 66")
	expect(t, "answered", got.headers.Get("X-Request-Id"), "order 66")
	expect(t, "received", received, "order 66")

	for _, unusable := range []string{"", strings.Repeat("x", 129), "grün"} {
		got = s.call(t, "POST", "/api/v1/quota:check", `{}`, "X-Request-Id: "+unusable)
		made := got.headers.Get("X-Request-Id")
		if len(made) != 32 || made == unusable {
			t.Errorf("%q was answered with %q", unusable, made)
		}
		expect(t, "received", received, made)
	}
}

func TestBothSpellingsOfAQueryParameterAreTaken(t *testing.T) {
	s := startSuite(t)
	var received *analyticsv1.GetCostSummaryRequest
	s.costSummary = func(
		_ context.Context, request *analyticsv1.GetCostSummaryRequest,
	) (*analyticsv1.GetCostSummaryResponse, error) {
		received = request
		return &analyticsv1.GetCostSummaryResponse{ActualCost: "1.25", SavingsPercent: "0.00"}, nil
	}
	for _, path := range []string{
		"/api/v1/analytics/cost-summary?startDate=2026-01-01&endDate=2026-01-31",
		"/api/v1/analytics/cost-summary?start_date=2026-01-01&end_date=2026-01-31",
		"/api/analytics/cost-summary?startDate=2026-01-01&end_date=2026-01-31",
	} {
		got := s.call(t, "GET", path, "")
		expect(t, path, got.status, http.StatusOK)
		expect(t, "start", received.GetStartDate(), "2026-01-01")
		expect(t, "end", received.GetEndDate(), "2026-01-31")
		expect(t, "actualCost", got.json(t)["actualCost"], "1.25")
		expect(t, "savingsPercent", got.json(t)["savingsPercent"], "0.00")
		if breakdown, ok := got.json(t)["breakdown"].([]any); !ok || len(breakdown) != 0 {
			t.Errorf("an empty list is said as one: %s", got.body)
		}
	}
}

func TestAParameterGivenTwiceIsRefused(t *testing.T) {
	s := startSuite(t)
	got := s.call(t, "GET", "/api/v1/analytics/cost-summary?startDate=2026-01-01&start_date=2026-02-01", "")
	expect(t, "status", got.status, http.StatusBadRequest)
	expect(t, "reason", got.reason(t), "INVALID_FIELD")
}

func TestLargeIntegersTravelExactly(t *testing.T) {
	s := startSuite(t)
	s.recordUsage = func(
		_ context.Context, request *meteringv1.RecordUsageRequest,
	) (*meteringv1.RecordUsageResponse, error) {
		sequence := request.GetEvents()[0].GetMeasurements()[0].GetQuantity()
		return &meteringv1.RecordUsageResponse{Results: []*meteringv1.EventResult{{Sequence: sequence}}}, nil
	}
	for _, quantity := range []string{`9007199254740991`, `"9007199254740991"`} {
		got := s.call(t, "POST", "/api/v1/usage", `{"events": [{"measurements": [{"quantity": `+quantity+`}]}]}`)
		result := got.json(t)["results"].([]any)[0].(map[string]any)
		expect(t, "sequence", result["sequence"], "9007199254740991")
	}
}

func TestAMethodCannotBeOverridden(t *testing.T) {
	s := startSuite(t)
	got := s.call(t, "POST", "/api/v1/analytics/cost-summary", "startDate=2026-01-01",
		"Content-Type: application/x-www-form-urlencoded", "X-HTTP-Method-Override: GET")
	expect(t, "status", got.status, http.StatusMethodNotAllowed)
}

// Every REST path of the contract, built from the descriptors, reaches a service.
func TestEveryPathOfTheContractIsServed(t *testing.T) {
	s := startSuite(t)
	paths := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				for _, binding := range append(rule.GetAdditionalBindings(), rule) {
					if method, path := verbAndPath(binding); path != "" && strings.HasPrefix(string(file.Package()), "tollbook.") {
						paths++
						s.expectServed(t, method, path)
					}
				}
			}
		}
		return true
	})
	if paths < 20 {
		t.Errorf("found only %d paths in the contract", paths)
	}
}

func verbAndPath(rule *annotations.HttpRule) (method, path string) {
	switch pattern := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, pattern.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, pattern.Post
	case *annotations.HttpRule_Put:
		return http.MethodPut, pattern.Put
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, pattern.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, pattern.Delete
	default:
		return "", ""
	}
}

func (s *suite) expectServed(t *testing.T, method, template string) {
	t.Helper()
	path := strings.NewReplacer("{", "", "}", "").Replace(template)
	// A body that no message has: whatever takes it refuses it, except where there is none to take.
	got := s.call(t, method, path+"?pageSize=x&startDate=2026-01-01&start_date=x", `{"noSuchField": 1}`)
	if got.status == http.StatusNotFound || got.status == http.StatusMethodNotAllowed {
		t.Errorf("%s %s is answered with %d", method, template, got.status)
	}
	if log := s.logs.String(); !strings.Contains(log, `"route":"`+template+`"`) {
		t.Errorf("%s is not logged under its template", template)
	}
}
