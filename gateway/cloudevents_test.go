package main

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
)

const cloudEventsPath = "/api/v1/cloudevents"

func TestCloudEventsArriveUnchangedWithTheCallersKey(t *testing.T) {
	s := startSuite(t)
	var received *meteringv1.IngestCloudEventsRequest
	var requestID, credential string
	s.cloudEvents = func(
		ctx context.Context, request *meteringv1.IngestCloudEventsRequest,
	) (*meteringv1.IngestCloudEventsResponse, error) {
		received = request
		requestID = strings.Join(metadataOf(ctx).Get("x-request-id"), "|")
		credential = strings.Join(metadataOf(ctx).Get("authorization"), "|")
		return &meteringv1.IngestCloudEventsResponse{Results: []*meteringv1.EventResult{
			{Index: 0, Status: meteringv1.EventStatus_EVENT_STATUS_ACCEPTED, Sequence: 7},
		}}, nil
	}
	for _, sent := range [][]byte{[]byte("{\r\n\t\"n\": 1.0e2, \"n\": NaN}\n\n"), {0x00, 0xff, '\n'}, {}} {
		got := s.send(t, "POST", cloudEventsPath, bytes.NewReader(sent), "Content-Type: application/json; charset=utf-8",
			"ce-id: a%20b", "CE-Source: /agents", "Ce-Id: second", "Cex: no", "X-Request-Id: req-7", "Authorization: Bearer k",
			"Authorization: Bearer other", "Grpc-Metadata-Authorization: Bearer smuggled")
		expect(t, "status", got.status, http.StatusOK)
		expect(t, "Content-Type", got.headers.Get("Content-Type"), "application/json")
		if !bytes.Equal(received.GetBody(), sent) {
			t.Errorf("%q sent, %q received", sent, received.GetBody())
		}
		expect(t, "content type", received.GetContentType(), "application/json; charset=utf-8")
		headers := []string{}
		for _, header := range received.GetHeaders() {
			headers = append(headers, header.GetName()+"="+header.GetValue())
		}
		slices.Sort(headers)
		expect(t, "headers", strings.Join(headers, " "), "Ce-Id=a%20b Ce-Id=second Ce-Source=/agents")
		expect(t, "request id", requestID, "req-7")
		expect(t, "credential", credential, "Bearer k")
		result := got.json(t)["results"].([]any)[0].(map[string]any)
		expect(t, "result", result["status"], "EVENT_STATUS_ACCEPTED")
		expect(t, "sequence", result["sequence"], "7")
	}
	s.call(t, "POST", cloudEventsPath, "{}")
	expect(t, "no credential is made up", credential, "")
}

func TestCloudEventsAboveTheLimitAre413AndReachNobody(t *testing.T) {
	s := startSuite(t)
	s.cloudEvents = func(
		context.Context, *meteringv1.IngestCloudEventsRequest,
	) (*meteringv1.IngestCloudEventsResponse, error) {
		t.Error("reached the service")
		return &meteringv1.IngestCloudEventsResponse{}, nil
	}
	got := s.call(t, "POST", cloudEventsPath, strings.Repeat("x", requestBytesMax+1), "Authorization: Bearer k")
	expect(t, "status", got.status, http.StatusRequestEntityTooLarge)
	expect(t, "reason", got.reason(t), "LIMIT_EXCEEDED")
}

func TestALargestBodyOfCloudEventsReachesTheService(t *testing.T) {
	s := startSuite(t)
	received := 0
	s.cloudEvents = func(
		_ context.Context, request *meteringv1.IngestCloudEventsRequest,
	) (*meteringv1.IngestCloudEventsResponse, error) {
		received = len(request.GetBody())
		return &meteringv1.IngestCloudEventsResponse{}, nil
	}
	got := s.call(t, "POST", cloudEventsPath, strings.Repeat("x", requestBytesMax))
	expect(t, "status", got.status, http.StatusOK)
	expect(t, "received", received, requestBytesMax)
}

func TestAHeaderThatIsNotUTF8IsRefused(t *testing.T) {
	s := startSuite(t)
	for _, header := range []string{"Ce-Subject: \xff", "Content-Type: application/\xff"} {
		got := s.call(t, "POST", cloudEventsPath, "{}", header)
		expect(t, "status", got.status, http.StatusBadRequest)
		expect(t, "reason", got.reason(t), "INVALID_FIELD")
	}
}

func TestTheServicesRefusalOfCloudEventsIsTheAnswer(t *testing.T) {
	s := startSuite(t)
	for code, want := range map[codes.Code]int{
		codes.InvalidArgument: http.StatusBadRequest, codes.Unauthenticated: http.StatusUnauthorized,
		codes.PermissionDenied: http.StatusForbidden, codes.ResourceExhausted: http.StatusTooManyRequests,
		codes.Unavailable: http.StatusServiceUnavailable,
	} {
		refused, _ := status.New(code, "Refused.").WithDetails(reasonOf("A_REASON"))
		s.cloudEvents = func(
			context.Context, *meteringv1.IngestCloudEventsRequest,
		) (*meteringv1.IngestCloudEventsResponse, error) {
			return nil, refused.Err()
		}
		got := s.call(t, "POST", cloudEventsPath, "{}", "Authorization: Bearer k")
		expect(t, code.String(), got.status, want)
		expect(t, "reason", got.reason(t), "A_REASON")
	}
}
