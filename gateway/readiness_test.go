package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestReadyOnlyWhenEveryServiceServes(t *testing.T) {
	s := startSuite(t)
	now := time.Now()
	s.gateway.readiness.now = func() time.Time { return now }
	later := func() { now = now.Add(probeRememberedFor) }

	got := s.call(t, "GET", "/readyz", "")
	expect(t, "status", got.status, http.StatusOK)
	expect(t, "body", string(got.body), `{"ready":true,"notReady":{}}`)

	later()
	s.health["quota"].SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	s.servers["accounts"].Stop()
	got = s.call(t, "GET", "/readyz", "")
	expect(t, "status", got.status, http.StatusServiceUnavailable)
	expect(t, "body", string(got.body), `{"ready":false,"notReady":{"accounts":"UNREACHABLE","quota":"NOT_SERVING"}}`)
	for _, line := range []string{
		`"event":"ready"`, `"event":"not_ready","service":"gateway","why":{"accounts":"UNREACHABLE","quota":"NOT_SERVING"}`,
	} {
		expect(t, line, strings.Count(s.logs.String(), line), 1)
	}
	expect(t, "the process is alive all the same", s.call(t, "GET", "/healthz", "").status, http.StatusOK)
}

func TestAProbeIsRememberedForAMoment(t *testing.T) {
	s := startSuite(t)
	now := time.Now()
	s.gateway.readiness.now = func() time.Time { return now }

	expect(t, "at first", s.call(t, "GET", "/readyz", "").status, http.StatusOK)
	s.health["quota"].SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	now = now.Add(probeRememberedFor - 1)
	expect(t, "at once", s.call(t, "GET", "/readyz", "").status, http.StatusOK)
	now = now.Add(1)
	expect(t, "later", s.call(t, "GET", "/readyz", "").status, http.StatusServiceUnavailable)
}

func TestADrainingGatewayIsNotReady(t *testing.T) {
	s := startSuite(t)
	s.gateway.readiness.drain()
	got := s.call(t, "GET", "/readyz", "")
	expect(t, "status", got.status, http.StatusServiceUnavailable)
	expect(t, "body", string(got.body), `{"ready":false,"notReady":{"gateway":"DRAINING"}}`)
}
