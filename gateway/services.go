package main

import (
	"context"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	accountsv1 "tollbook.dev/tollbook/gen/go/tollbook/accounts/v1"
	analyticsv1 "tollbook.dev/tollbook/gen/go/tollbook/analytics/v1"
	billingv1 "tollbook.dev/tollbook/gen/go/tollbook/billing/v1"
	meteringv1 "tollbook.dev/tollbook/gen/go/tollbook/metering/v1"
	quotav1 "tollbook.dev/tollbook/gen/go/tollbook/quota/v1"
)

type registration func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error

const (
	billing  = "billing"
	metering = "metering"
)

// services is the table of what stands behind the gateway: a process, and those of its gRPC services that have REST
// paths. A test finds a service that has paths in the contract and no line here.
var services = []struct {
	name          string
	registrations []registration
}{
	{metering, []registration{
		meteringv1.RegisterMeteringServiceHandler, meteringv1.RegisterTaskTimeServiceHandler,
	}},
	{"quota", []registration{quotav1.RegisterQuotaServiceHandler}},
	{billing, []registration{
		billingv1.RegisterBillingServiceHandler, billingv1.RegisterCatalogServiceHandler,
		billingv1.RegisterBillingProfileServiceHandler, billingv1.RegisterLegalEntityServiceHandler,
		billingv1.RegisterCreditServiceHandler, billingv1.RegisterCouponServiceHandler,
		billingv1.RegisterCreditNoteServiceHandler, billingv1.RegisterRevenueServiceHandler,
		billingv1.RegisterPaymentServiceHandler, billingv1.RegisterReconciliationServiceHandler,
	}},
	{"analytics", []registration{analyticsv1.RegisterAnalyticsServiceHandler, analyticsv1.RegisterPriceServiceHandler}},
	{"accounts", []registration{accountsv1.RegisterAccountsServiceHandler}},
}
