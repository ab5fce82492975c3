package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
	quotav1 "tollbook.dev/tollbook/gen/go/tollbook/quota/v1"
)

func refuseChecks(s *suite, code codes.Code, message string, details ...protoadapt.MessageV1) {
	refused, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	s.check = func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		return nil, refused.Err()
	}
}

func reasonOf(reason string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{
		Reason: reason, Domain: "tollbook.dev", Metadata: map[string]string{"request_id": "req-1"},
	}
}

func TestARefusalKeepsItsReasonAndGetsTheRightStatus(t *testing.T) {
	s := startSuite(t)
	for code, want := range map[codes.Code]int{
		codes.InvalidArgument:    http.StatusBadRequest,
		codes.FailedPrecondition: http.StatusBadRequest,
		codes.Unauthenticated:    http.StatusUnauthorized,
		codes.PermissionDenied:   http.StatusForbidden,
		codes.NotFound:           http.StatusNotFound,
		codes.Aborted:            http.StatusConflict,
		codes.AlreadyExists:      http.StatusConflict,
		codes.ResourceExhausted:  http.StatusTooManyRequests,
		codes.Unavailable:        http.StatusServiceUnavailable,
		codes.DeadlineExceeded:   http.StatusGatewayTimeout,
		codes.Internal:           http.StatusInternalServerError,
		codes.Unimplemented:      http.StatusNotImplemented,
	} {
		refuseChecks(s, code, "The key is unknown.", reasonOf("CREDENTIAL_INVALID"))
		got := s.call(t, "POST", "/api/v1/quota:check", `{}`)
		expect(t, code.String(), got.status, want)
		expect(t, "reason", got.reason(t), "CREDENTIAL_INVALID")
		expect(t, "code", got.json(t)["code"], float64(code))
		expect(t, "message", got.json(t)["message"], "The key is unknown.")
		wantChallenge := map[bool]string{true: "Bearer"}[want == http.StatusUnauthorized]
		expect(t, "WWW-Authenticate", got.headers.Get("WWW-Authenticate"), wantChallenge)
	}
}

func TestRetryInfoBecomesRetryAfterRoundedUp(t *testing.T) {
	s := startSuite(t)
	for delay, want := range map[time.Duration]string{
		1500 * time.Millisecond: "2", 3 * time.Second: "3", 0: "0", -time.Second: "0",
	} {
		refuseChecks(s, codes.ResourceExhausted, "Too many streams.", reasonOf("LIMIT_EXCEEDED"),
			&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
		got := s.call(t, "POST", "/api/v1/quota:check", `{}`)
		expect(t, delay.String(), got.headers.Get("Retry-After"), want)
	}
}

func TestAnErrorWithAnUnknownDetailIsStillTold(t *testing.T) {
	s := startSuite(t)
	refused := status.New(codes.NotFound, "No such plan.").Proto()
	refused.Details = append(refused.Details, &anypb.Any{TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte("x")})
	info, _ := anypb.New(reasonOf("NOT_FOUND"))
	refused.Details = append(refused.Details, info)
	s.check = func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		return nil, status.FromProto(refused).Err()
	}
	got := s.call(t, "POST", "/api/v1/quota:check", `{}`)
	expect(t, "status", got.status, http.StatusNotFound)
	expect(t, "message", got.json(t)["message"], "No such plan.")
	expect(t, "reason", got.reason(t), "NOT_FOUND")
}

func TestAnUnknownFieldOfTheBodyIsRefusedByName(t *testing.T) {
	s := startSuite(t)
	got := s.call(t, "POST", "/api/v1/quota:check", `{"consumptons": []}`)
	expect(t, "status", got.status, http.StatusBadRequest)
	expect(t, "reason", got.reason(t), "INVALID_FIELD")
	expect(t, "message", got.json(t)["message"], `(line 1:2): unknown field "consumptons"`)
}

func TestABodyThatIsNotOneJSONValueIsRefused(t *testing.T) {
	s := startSuite(t)
	for _, body := range []string{`{`, `[]`, `{} {}`, `{}x`, `nonsense`, "{\"requestId\": \"\xff\"}", `{"mode": "NO_SUCH_MODE"}`} {
		got := s.call(t, "POST", "/api/v1/quota:check", body)
		expect(t, body, got.status, http.StatusBadRequest)
		expect(t, "reason", got.reason(t), "INVALID_FIELD")
	}
}

func TestAnEmptyBodyIsAnEmptyRequest(t *testing.T) {
	s := startSuite(t)
	s.check = func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		return &quotav1.CheckResponse{}, nil
	}
	for _, body := range []string{"", " \n"} {
		expect(t, "status", s.call(t, "POST", "/api/v1/quota:check", body).status, http.StatusOK)
	}
}

func TestUnknownPathsAndMethodsAreToldInTheSameForm(t *testing.T) {
	s := startSuite(t)
	for path, reason := range map[string]string{
		"GET /":                     "NOT_FOUND",
		"GET /api/v1/nonsense":      "NOT_FOUND",
		"GET /api/v1/usage/":        "NOT_FOUND",
		"GET //api/v1/usage":        "NOT_FOUND",
		"POST /api/v1/plans/x/y":    "NOT_FOUND",
		"GET /api/v1/invoices:nope": "NOT_FOUND",
		"DELETE /api/v1/usage":      "METHOD_NOT_ALLOWED",
		"GET /api/v1/quota:check":   "METHOD_NOT_ALLOWED",
		"GET /api/webhooks/stripe":  "METHOD_NOT_ALLOWED",
		"POST /openapi.json":        "METHOD_NOT_ALLOWED",
		"POST /healthz":             "METHOD_NOT_ALLOWED",
		"MADEUP /api/v1/quotas":     "METHOD_NOT_ALLOWED",
	} {
		method, target, _ := strings.Cut(path, " ")
		got := s.call(t, method, target, "", "X-Request-Id: req-9")
		expect(t, path, got.reason(t), reason)
		want := map[string]int{"NOT_FOUND": http.StatusNotFound, "METHOD_NOT_ALLOWED": http.StatusMethodNotAllowed}[reason]
		expect(t, path, got.status, want)
		expect(t, "X-Request-Id", got.headers.Get("X-Request-Id"), "req-9")
		expect(t, "Content-Type", got.headers.Get("Content-Type"), "application/json")
	}
}

func TestARefusedMethodIsToldWhichOnesThePathAnswers(t *testing.T) {
	s := startSuite(t)
	s.recordUsage = func(context.Context, *meteringv1.RecordUsageRequest) (*meteringv1.RecordUsageResponse, error) {
		t.Error("reached the service")
		return &meteringv1.RecordUsageResponse{}, nil
	}
	for path, want := range map[string]string{
		"DELETE /api/v1/usage":     "GET, POST",
		"OPTIONS /api/v1/usage":    "GET, POST",
		"GET /api/v1/quota:check":  "POST",
		"GET /api/webhooks/stripe": "POST",
		"PUT /api/v1/cloudevents":  "POST",
		"POST /openapi.json":       "GET",
		"HEAD /healthz":            "GET",
	} {
		method, target, _ := strings.Cut(path, " ")
		got := s.call(t, method, target, `{"events": []}`)
		expect(t, path, got.status, http.StatusMethodNotAllowed)
		expect(t, path, got.headers.Get("Allow"), want)
		expect(t, "its route in the log", strings.Contains(s.logs.String(), "/api/v1/usage"), false)
	}
	expect(t, "Allow of an unknown path", s.call(t, "GET", "/nonsense", "").headers.Get("Allow"), "")
}

func TestABodyAboveTheLimitIs413(t *testing.T) {
	s := startSuite(t)
	s.recordUsage = func(context.Context, *meteringv1.RecordUsageRequest) (*meteringv1.RecordUsageResponse, error) {
		t.Error("reached the service")
		return &meteringv1.RecordUsageResponse{}, nil
	}
	tooLarge := `{"events": [{"id": "` + strings.Repeat("x", 8<<20) + `"}]}`
	for _, body := range []io.Reader{strings.NewReader(tooLarge), io.MultiReader(strings.NewReader(tooLarge))} {
		got := s.send(t, "POST", "/api/v1/usage", body)
		expect(t, "status", got.status, http.StatusRequestEntityTooLarge)
		expect(t, "reason", got.reason(t), "LIMIT_EXCEEDED")
	}
}

func TestAServiceThatIsGoneIsUnavailableWithoutItsAddress(t *testing.T) {
	s := startSuite(t)
	s.servers["quota"].Stop()
	got := s.call(t, "POST", "/api/v1/quota:check", `{}`)
	expect(t, "status", got.status, http.StatusServiceUnavailable)
	expect(t, "reason", got.reason(t), "DEPENDENCY_UNAVAILABLE")
	if strings.Contains(string(got.body), "127.0.0.1") {
		t.Errorf("the answer tells where the service is: %s", got.body)
	}
	if !strings.Contains(s.logs.String(), `"upstream_error":"rpc error: code = Unavailable`) {
		t.Errorf("the log does not tell what happened: %s", s.logs.String())
	}
}

func TestUnavailableIsTriedThreeTimesAndNothingElseAgain(t *testing.T) {
	s := startSuite(t)
	for code, want := range map[codes.Code]int{codes.Unavailable: 3, codes.Internal: 1, codes.Aborted: 1} {
		attempts := 0
		s.check = func(context.Context, *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
			attempts++
			return nil, status.Error(code, "no")
		}
		s.call(t, "POST", "/api/v1/quota:check", `{}`)
		expect(t, code.String(), attempts, want)
	}
}

func TestACallersDeadlineIsKept(t *testing.T) {
	s := startSuite(t)
	s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	got := s.call(t, "POST", "/api/v1/quota:check", `{}`, "Grpc-Timeout: 20m")
	expect(t, "status", got.status, http.StatusGatewayTimeout)
	expect(t, "reason", got.reason(t), "DEADLINE_EXCEEDED")
	got = s.call(t, "POST", "/api/v1/quota:check", `{}`, "Grpc-Timeout: soon")
	expect(t, "status", got.status, http.StatusBadRequest)
}

func TestEveryCallHasADeadlineThatNoCallerCanRaise(t *testing.T) {
	s := startSuite(t)
	for _, sent := range []string{"X-Nothing: 1", "Grpc-Timeout: 99H", "Grpc-Timeout: 0S"} {
		s.check = func(ctx context.Context, _ *quotav1.CheckRequest) (*quotav1.CheckResponse, error) {
			deadline, set := ctx.Deadline()
			if !set || time.Until(deadline) > upstreamTimeout {
				t.Errorf("%s: deadline %v, %v", sent, deadline, set)
			}
			return &quotav1.CheckResponse{}, nil
		}
		expect(t, sent, s.call(t, "POST", "/api/v1/quota:check", `{}`, sent).status, http.StatusOK)
	}
}
