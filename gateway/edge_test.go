package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tollbook.dev/tollbook"
	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
)

func TestOneLogLinePerRequestHoldsTheTemplateAndNoSecret(t *testing.T) {
	s := startSuite(t)
	s.getInvoice = func(context.Context, *billingv1.GetInvoiceRequest) (*billingv1.GetInvoiceResponse, error) {
		return &billingv1.GetInvoiceResponse{}, nil
	}
	s.call(t, "GET", "/api/v1/invoices/secret-1?organizationId=secret-2", "secret-3",
		"Authorization: Bearer secret-4", "X-Request-Id: req-1")
	var line map[string]any
	lines := strings.Split(strings.TrimSpace(s.logs.String()), "\n")
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &line) != nil {
		t.Fatalf("not one JSON line: %q", lines)
	}
	for key, want := range map[string]any{
		"event": "request", "level": "info", "service": "gateway", "method": "GET", "status": 200.0,
		"route": "/api/v1/invoices/{invoice_id}", "request_id": "req-1",
	} {
		expect(t, key, line[key], want)
	}
	for _, key := range []string{"timestamp", "duration_ms"} {
		if line[key] == nil {
			t.Errorf("no %s", key)
		}
	}
	if strings.Contains(lines[0], "secret") {
		t.Errorf("the log tells too much: %s", lines[0])
	}
}

func TestMetricsCountByTemplateAndStatus(t *testing.T) {
	s := startSuite(t)
	s.getInvoice = func(context.Context, *billingv1.GetInvoiceRequest) (*billingv1.GetInvoiceResponse, error) {
		return &billingv1.GetInvoiceResponse{}, nil
	}
	s.call(t, "GET", "/api/v1/invoices/inv-1", "")
	s.call(t, "GET", "/api/v1/invoices/inv-2", "")
	s.call(t, "GET", "/no/such/path-3", "")
	s.call(t, "MADEUP", "/no/such/path-4", "")
	server := httptest.NewServer(s.gateway.metricsHandler)
	defer server.Close()
	s.url = server.URL
	page := string(s.call(t, "GET", "/metrics", "").body)
	for _, want := range []string{
		`tollbook_http_requests_total{code="200",method="GET",route="/api/v1/invoices/{invoice_id}"} 2`,
		`tollbook_http_requests_total{code="404",method="GET",route="unmatched"} 1`,
		`tollbook_http_requests_total{code="404",method="other",route="unmatched"} 1`,
		`tollbook_http_request_seconds_count{method="GET",route="/api/v1/invoices/{invoice_id}"} 2`,
		`tollbook_ready 1`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(page, "inv-1") || strings.Contains(page, "path-3") {
		t.Error("a path became a label")
	}
}

func TestEveryAnswerCarriesTheSecurityHeaders(t *testing.T) {
	s := startSuite(t)
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/api/v1/plans", "/nowhere"} {
		got := s.call(t, "GET", path, "")
		expect(t, path, got.headers.Get("X-Content-Type-Options"), "nosniff")
		expect(t, path, got.headers.Get("Cache-Control"), "no-store")
	}
}

func TestTheOpenAPIDocumentIsServedAsCommitted(t *testing.T) {
	s := startSuite(t)
	got := s.call(t, "GET", "/openapi.json", "")
	expect(t, "status", got.status, http.StatusOK)
	expect(t, "Content-Type", got.headers.Get("Content-Type"), "application/json")
	expect(t, "body", string(got.body), string(tollbook.OpenAPI))
	document := got.json(t)
	expect(t, "title", document["info"].(map[string]any)["title"], "Tollbook")
	if document["info"].(map[string]any)["version"] == "" {
		t.Error("no version")
	}
	paths := document["paths"].(map[string]any)
	for _, path := range []string{"/api/v1/quota:check", "/api/v1/usage", "/api/analytics/cost-summary"} {
		if paths[path] == nil {
			t.Errorf("no %s", path)
		}
	}
	if document["securityDefinitions"].(map[string]any)["bearer"] == nil {
		t.Error("no bearer scheme")
	}
}

func TestAPanicIsAnsweredAsADefectAndLogged(t *testing.T) {
	logs := &lockedBuffer{}
	log := configureLogs(logs, slog.LevelInfo)
	handler := edge(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }),
		newMeasures(newReadiness(nil, slog.New(slog.DiscardHandler), time.Now)), log)
	server := httptest.NewServer(handler)
	defer server.Close()
	got := (&suite{url: server.URL}).call(t, "GET", "/", "")
	expect(t, "status", got.status, http.StatusInternalServerError)
	expect(t, "reason", got.reason(t), "INTERNAL")
	if !strings.Contains(logs.String(), `"cause":"oh"`) {
		t.Error(logs.String())
	}
}

func TestAnAnswerThatPanicsHalfWayIsBrokenOff(t *testing.T) {
	handler := edge(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half an ans")
		_ = http.NewResponseController(w).Flush()
		panic("oh")
	}), newMeasures(newReadiness(nil, slog.New(slog.DiscardHandler), time.Now)), configureLogs(io.Discard, slog.LevelInfo))
	server := httptest.NewServer(handler)
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(response.Body)
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("half an answer looks whole")
	}
}
