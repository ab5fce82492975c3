"""Puts billing together: the only file that names concrete adapters."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from kit.clock import Clock, SystemClock
from kit.grpc.client import connect
from kit.grpc.identity import Authenticator, RemoteKeyDirectory, RemoteOrganizations
from kit.grpc.server import Application, Servicer
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.billing.adapters.jinja_letters.letters import JinjaLetters
from services.billing.adapters.metering_ledger import MeteringLedger
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_books.entitlements import PostgresEntitlementHeads
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_change_list import PostgresChangeList
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.adapters.postgres_coupons import PostgresCoupons
from services.billing.adapters.postgres_dunning_list import PostgresDunningList
from services.billing.adapters.postgres_leftovers import PostgresLeftovers
from services.billing.adapters.postgres_legal_entities import PostgresLegalEntities
from services.billing.adapters.postgres_lists import PostgresCollectionList, PostgresStripeInbox
from services.billing.adapters.postgres_mail_list import PostgresMailList
from services.billing.adapters.postgres_money_lists import PostgresCreditNoteList, PostgresExpiryList
from services.billing.adapters.postgres_reports import PostgresReports
from services.billing.adapters.postgres_revenue import PostgresRevenueLists
from services.billing.adapters.remote_accounts import AccountsOrganizations
from services.billing.adapters.remote_metering import MeteringUsage
from services.billing.adapters.smtp_postman import SmtpPostman
from services.billing.adapters.stripe.checkout import StripeCheckouts
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.credit_notes import StripeCreditNotes
from services.billing.adapters.stripe.customers import StripeCustomers
from services.billing.adapters.stripe.invoices import StripeInvoices
from services.billing.adapters.stripe.payments import StripePayments
from services.billing.adapters.stripe.records import StripeRecords
from services.billing.adapters.stripe.subscriptions import StripeSubscriptions
from services.billing.adapters.typst_papers.renderer import TypstPapers
from services.billing.application.act_on_subscription import ActOnSubscription
from services.billing.application.apply_catalog import ApplyCatalog
from services.billing.application.apply_repairs import ApplyRepairs
from services.billing.application.apply_scheduled_changes import ApplyScheduledChanges
from services.billing.application.begin_checkout import BeginCheckout
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.cancel_subscription import CancelSubscription
from services.billing.application.change_plan import ChangePlan
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.close_due_subscriptions import CloseDueSubscriptions
from services.billing.application.collect_invoices import CollectInvoices
from services.billing.application.compare_organization import CompareOrganization
from services.billing.application.confirm_usage import ConfirmUsage
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.diff_catalog import DiffCatalog
from services.billing.application.dun_invoices import DunInvoices
from services.billing.application.expire_credits import ExpireCredits
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.get_subscription_usage import GetSubscriptionUsage
from services.billing.application.hand_over_credit_notes import HandOverCreditNotes
from services.billing.application.handle_stripe_events import HandleStripeEvents
from services.billing.application.let_go import LetGo
from services.billing.application.list_entitlements import ListEntitlements
from services.billing.application.make_cut import MakeCut
from services.billing.application.open_portal import OpenPortal
from services.billing.application.pause_subscription import PauseSubscription
from services.billing.application.preview_invoice import PreviewInvoice
from services.billing.application.print_papers import PrintPapers
from services.billing.application.put_on_plan import PutOnPlan
from services.billing.application.read_entitlements import ReadEntitlements
from services.billing.application.reconcile_billing import ReconcileBilling
from services.billing.application.report_revenue import ReportRevenue
from services.billing.application.resume_subscription import ResumeSubscription
from services.billing.application.send_mails import SendMails
from services.billing.application.settle_invoice import SettleInvoice
from services.billing.application.store_stripe_event import StoreStripeEvent
from services.billing.application.stripe_events.checkout import FinishCheckout
from services.billing.application.stripe_events.customers import LookAtCustomer, UseFirstPaymentMethod
from services.billing.application.stripe_events.disputes import KeepDispute, KeepRefunds
from services.billing.application.stripe_events.drafts import HoldDraft
from services.billing.application.stripe_events.payments import FollowInvoice
from services.billing.application.stripe_events.subscriptions import FollowSubscription
from services.billing.application.stripe_events.table import handlers
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.config import BillingSettings
from services.billing.domain.return_urls import return_hosts
from services.billing.domain.smtp_servers import SmtpServer, sender_of
from services.billing.rpc.billing_servicer import BillingServicer
from services.billing.rpc.catalog_servicer import CatalogServicer
from services.billing.rpc.coupon_servicer import CouponServicer
from services.billing.rpc.credit_note_servicer import CreditNoteServicer
from services.billing.rpc.credit_servicer import CreditServicer
from services.billing.rpc.entitlement_servicer import EntitlementServicer
from services.billing.rpc.legal_entity_servicer import LegalEntityServicer
from services.billing.rpc.payment_servicer import PaymentServicer
from services.billing.rpc.profile_servicer import BillingProfileServicer
from services.billing.rpc.reconciliation_servicer import ReconciliationServicer
from services.billing.rpc.revenue_servicer import RevenueServicer
from services.billing.rpc.stripe_webhook_servicer import StripeWebhookServicer
from services.billing.workers.closing import keep_closing
from services.billing.workers.confirming import keep_confirming
from services.billing.workers.jobs import Duties, keep_working
from services.billing.workers.working_off import LOOK_SOON_SECONDS, work_off


async def bootstrap(settings: BillingSettings, resources: AsyncExitStack) -> Application:
    """The service, with everything it opened handed to `resources`."""
    tenant, fleet = Database(settings.postgres_tenant_url), Database(settings.postgres_fleet_url)
    for database in (tenant, fleet):
        resources.push_async_callback(database.close)
    accounts = await resources.enter_async_context(connect(settings.accounts_address, settings.service_key))
    metering = await resources.enter_async_context(connect(settings.metering_address, settings.service_key))
    stripe = StripeApi(settings.stripe_api_key, settings.stripe_api_base)
    resources.push_async_callback(stripe.close)

    clock = SystemClock()
    collector, customers = StripeInvoices(stripe, clock), StripeCustomers(stripe)
    books, plans, usage = PostgresBooks(tenant), PostgresPlans(tenant, fleet), MeteringUsage(metering)
    inbox, ledger = PostgresStripeInbox(fleet), MeteringLedger(metering)
    organizations = RemoteOrganizations(accounts)
    in_force = SubscriptionInForce(books, plans, AccountsOrganizations(organizations), clock)
    find_plan, find_wanted_plan = FindPlan(books, plans), FindWantedPlan(plans, usage)
    make_cut = MakeCut(books, find_plan, usage, clock)
    entities = PostgresLegalEntities(tenant, fleet)
    act = ActOnSubscription(books, plans, in_force, clock)

    payments, checkouts, follow_payment = StripePayments(stripe), StripeCheckouts(stripe), FollowPayment(clock)
    due_invoices, hosts = PostgresCollectionList(fleet), return_hosts(settings.return_hosts)
    create_subscription = CreateSubscription(books, find_wanted_plan, in_force, clock)
    change_plan, cancel_subscription = ChangePlan(find_wanted_plan, act), CancelSubscription(act)
    put_on_plan = PutOnPlan(in_force, create_subscription, change_plan, cancel_subscription)

    catalog = CatalogServicer(
        plans=plans, diff_catalog=DiffCatalog(plans, usage), apply_catalog=ApplyCatalog(plans, usage)
    )
    preview_invoice = PreviewInvoice(books, in_force, make_cut)
    print_papers = PrintPapers(
        books=books,
        entities=entities,
        usage=usage,
        preview_invoice=preview_invoice,
        papers=TypstPapers(settings.invoice_font_paths),
        clock=clock,
    )
    close_billing_period = CloseBillingPeriod(books, in_force, make_cut, clock)
    billing = BillingServicer(
        books=books,
        subscription_in_force=in_force,
        create_subscription=create_subscription,
        change_plan=change_plan,
        cancel_subscription=cancel_subscription,
        pause_subscription=PauseSubscription(act),
        resume_subscription=ResumeSubscription(act),
        get_subscription_usage=GetSubscriptionUsage(books, find_plan, usage, in_force, clock),
        list_entitlements=ListEntitlements(find_plan, in_force),
        preview_invoice=preview_invoice,
        print_papers=print_papers,
        close_billing_period=close_billing_period,
        begin_checkout=BeginCheckout(
            books=books,
            find_wanted_plan=find_wanted_plan,
            subscription_in_force=in_force,
            customers=customers,
            checkouts=checkouts,
            hosts=hosts,
            clock=clock,
        ),
        open_portal=OpenPortal(
            books=books,
            subscription_in_force=in_force,
            customers=customers,
            checkouts=checkouts,
            hosts=hosts,
            clock=clock,
        ),
        exists=organizations.exists,
    )
    entitlements = EntitlementServicer(
        heads=HeadWatch(PostgresEntitlementHeads(fleet).heads),
        read_entitlements=ReadEntitlements(books, find_plan, in_force, clock),
    )
    event_handlers = handlers(
        follow_invoice=FollowInvoice(collector, follow_payment),
        hold_draft=HoldDraft(collector, customers),
        keep_refunds=KeepRefunds(payments, collector, clock),
        keep_dispute=KeepDispute(payments, collector, clock),
        look_at_customer=LookAtCustomer(customers),
        use_first_payment_method=UseFirstPaymentMethod(customers),
        follow_subscription=FollowSubscription(StripeSubscriptions(stripe), customers, put_on_plan),
        finish_checkout=FinishCheckout(checkouts, customers, books, put_on_plan),
    )
    settling = PaymentServicer(
        books=books,
        settle_invoice=SettleInvoice(books, due_invoices, collector, follow_payment, clock),
        exists=organizations.exists,
    )
    webhook = StripeWebhookServicer(store_stripe_event=StoreStripeEvent(inbox, settings.stripe_webhook_secrets, clock))

    revenue = RevenueServicer(report_revenue=ReportRevenue(PostgresRevenueLists(fleet), clock))
    money: list[Servicer] = [
        BillingProfileServicer(books=books, clock=clock, exists=organizations.exists),
        LegalEntityServicer(entities=entities),
        CreditServicer(
            books=books,
            buy_credits=BuyCredits(books, clock, valid_days=settings.purchased_credits_days),
            clock=clock,
            exists=organizations.exists,
        ),
        CouponServicer(books=books, coupons=PostgresCoupons(tenant, fleet), clock=clock, exists=organizations.exists),
        CreditNoteServicer(books=books, print_papers=print_papers, clock=clock, exists=organizations.exists),
    ]

    reports, records = PostgresReports(fleet), StripeRecords(stripe, clock)
    compare = CompareOrganization(books, records, usage, make_cut, clock)
    reconcile = ReconcileBilling(reports, books, records, compare, clock)
    reconciliation = ReconciliationServicer(
        reports=reports,
        books=books,
        reconcile_billing=reconcile,
        apply_repairs=ApplyRepairs(
            reports=reports,
            books=books,
            records=records,
            compare=compare,
            collector=collector,
            customers=customers,
            follow_payment=follow_payment,
            close_billing_period=close_billing_period,
            clock=clock,
        ),
        exists=organizations.exists,
    )

    async def reconcile_daily() -> None:
        await reconcile(actor="billing")

    duties = Duties(
        send_mails=SendMails(
            due=PostgresMailList(fleet),
            books=books,
            find_plan=find_plan,
            entities=entities,
            papers=print_papers,
            letters=JinjaLetters(settings.mail_folder),
            postman=_postman(settings, clock),
            reply_to=sender_of(settings.mail_from).addr_spec if settings.mail_from else "",
            clock=clock,
        ),
        expire_credits=ExpireCredits(PostgresExpiryList(fleet), books, clock),
        let_go=LetGo(PostgresLeftovers(fleet), clock),
        reconcile=reconcile_daily,
    )

    async def prepare() -> None:
        for database in (tenant, fleet):
            await database.assert_safe_role()

    return Application(
        authenticator=Authenticator(RemoteKeyDirectory(accounts), settings.service_key_hashes),
        servicers=[catalog, billing, settling, entitlements, webhook, revenue, reconciliation, *money],
        workers={
            "collect_invoices": partial(
                work_off,
                CollectInvoices(
                    due=due_invoices,
                    books=books,
                    collector=collector,
                    customers=customers,
                    follow_payment=follow_payment,
                    clock=clock,
                ),
            ),
            "dun_invoices": partial(
                work_off,
                DunInvoices(
                    due=PostgresDunningList(fleet),
                    books=books,
                    collector=collector,
                    policy=settings.dunning_policy,
                    follow_payment=follow_payment,
                    clock=clock,
                ),
            ),
            "apply_scheduled_changes": partial(
                work_off,
                ApplyScheduledChanges(PostgresChangeList(fleet), in_force, clock),
                look_every_seconds=LOOK_SOON_SECONDS,
            ),
            "close_due_subscriptions": partial(
                keep_closing, CloseDueSubscriptions(PostgresCloseList(fleet), books, make_cut, clock)
            ),
            "confirm_usage": partial(keep_confirming, ledger, ConfirmUsage(books, find_plan, ledger, clock)),
            "handle_stripe_events": partial(work_off, HandleStripeEvents(inbox, books, event_handlers, clock)),
            "hand_over_credit_notes": partial(
                work_off,
                HandOverCreditNotes(PostgresCreditNoteList(fleet), books, StripeCreditNotes(stripe), clock),
            ),
            "jobs": partial(keep_working, settings.postgres_fleet_url, duties),
        },
        prepare=prepare,
        ready=[tenant.ping, fleet.ping],
    )


def _postman(settings: BillingSettings, clock: Clock) -> SmtpPostman | None:
    if not settings.smtp_url:
        return None
    return SmtpPostman(SmtpServer.from_url(settings.smtp_url), sender_of(settings.mail_from), clock)
