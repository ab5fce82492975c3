package main

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

const (
	gatewayAddressVariable = "TOLLBOOK_GATEWAY_ADDRESS"
	metricsAddressVariable = "TOLLBOOK_METRICS_ADDRESS"
	logLevelVariable       = "TOLLBOOK_LOG_LEVEL"
	otlpEndpointVariable   = "OTEL_EXPORTER_OTLP_ENDPOINT"
)

// logLevels has the names that the services know, since one variable sets them all.
var logLevels = map[string]slog.Level{
	"DEBUG":    slog.LevelDebug,
	"INFO":     slog.LevelInfo,
	"WARNING":  slog.LevelWarn,
	"WARN":     slog.LevelWarn,
	"ERROR":    slog.LevelError,
	"CRITICAL": slog.LevelError,
}

// settings is the whole configuration. Addresses are host:port.
type settings struct {
	address        string
	metricsAddress string
	serviceAddress map[string]string // service name -> where it serves gRPC
	logLevel       slog.Level
	tracing        bool
}

// readSettings answers every problem at once, each naming its variable; the settings count only where there is none.
func readSettings(getenv func(string) string) (settings, []error) {
	var problems []error
	address := func(variable string, portMin int) string {
		value := getenv(variable)
		if err := checkAddress(value, portMin); err != nil {
			problems = append(problems, fmt.Errorf("%s %w", variable, err))
		}
		return value
	}
	read := settings{
		address:        address(gatewayAddressVariable, 0),
		metricsAddress: address(metricsAddressVariable, 0),
		serviceAddress: map[string]string{},
		tracing:        getenv(otlpEndpointVariable) != "",
	}
	for _, service := range services {
		read.serviceAddress[service.name] = address(addressVariable(service.name), 1)
	}
	if name := getenv(logLevelVariable); name != "" {
		level, known := logLevels[strings.ToUpper(name)]
		if !known {
			problems = append(problems, fmt.Errorf("%s must be DEBUG, INFO, WARNING or ERROR, not %q", logLevelVariable, name))
		}
		read.logLevel = level
	}
	return read, problems
}

func addressVariable(service string) string {
	return "TOLLBOOK_" + strings.ToUpper(service) + "_ADDRESS"
}

// checkAddress wants host:port. Port 0, any free one, is only for listening.
func checkAddress(value string, portMin int) error {
	if value == "" {
		return fmt.Errorf("is not set; it must be host:port")
	}
	host, port, err := net.SplitHostPort(value)
	number, notANumber := strconv.Atoi(port)
	if err != nil || host == "" || notANumber != nil || number < portMin || number > 65535 {
		return fmt.Errorf("must be host:port, not %q", value)
	}
	return nil
}
