//! What can still happen to a payment that succeeded: refunds and disputes. Neither touches recurring revenue.

use std::io;

use rand::Rng;

use super::{
    ids::Id,
    outbox::By,
    shapes::{self, Charge, Dispute},
    truth::DAY,
    world::{Act, Target, World},
};

const REFUNDS: f64 = 0.008;
const DISPUTES: f64 = 0.0025;
/// Of disputes: won by the merchant.
const WON: f64 = 0.35;

/// A charge that will be refunded or disputed, kept until that is over.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    charge: Charge,
    refund: Option<(Id, i64, i64)>,
    dispute: Option<Dispute>,
}

impl World<'_> {
    /// Decides what will become of a charge.
    pub(super) fn plan_aftermath(&mut self, target: Target, charge: Charge, now: i64) {
        let (act, days) = if self.chance(REFUNDS) {
            (Act::Refund, 20)
        } else if self.chance(DISPUTES) {
            (Act::Dispute, 45)
        } else {
            return;
        };
        let claim = Claim { charge, refund: None, dispute: None };
        let number = self.claims.iter().position(Option::is_none).unwrap_or(self.claims.len());
        if number == self.claims.len() {
            self.claims.push(None);
        }
        self.claims[number] = Some(claim);
        let at = now + self.rng.random_range(3_600..days * DAY);
        self.plan(at, act, Target { generation: number as u32, ..target });
    }

    pub(super) fn refund(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(mut claim) = self.claims[target.generation as usize] else {
            return Ok(());
        };
        let old = claim.charge;
        let amount = if self.chance(0.5) { old.amount } else { (old.amount / 3).max(1) };
        let id = self.ids.long("re_");
        claim.charge.refunded = amount;
        claim.refund = Some((id, amount, now));
        let charge = claim.charge;
        self.claims[target.generation as usize] = Some(claim);
        self.tell(target.customer, "refund.created", now, By::Merchant, false, &|out, _, _, _| {
            shapes::refund(out, id, &charge, amount, now, None);
        })?;
        self.tell_charge(target.customer, Some(&old), &charge, "charge.refunded", now, By::Merchant)?;
        self.plan(now + 5 * DAY, Act::RefundSettles, target);
        Ok(())
    }

    /// The bank's reference of a refund arrives.
    pub(super) fn refund_settles(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(claim) = self.claims[target.generation as usize].take() else {
            return Ok(());
        };
        let Some((id, amount, created)) = claim.refund else {
            return Ok(());
        };
        let reference = self.rng.random_range(100_000_000..999_999_999);
        self.tell(target.customer, "refund.updated", now, By::Stripe, true, &|out, _, _, before| {
            shapes::refund(out, id, &claim.charge, amount, created, (!before).then_some(reference));
        })
    }

    pub(super) fn dispute(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(mut claim) = self.claims[target.generation as usize] else {
            return Ok(());
        };
        let old = claim.charge;
        claim.charge.disputed = true;
        let dispute = Dispute {
            id: self.ids.long("du_"),
            created: now,
            status: "needs_response",
            transactions: [Some(self.ids.long("txn_")), None],
        };
        claim.dispute = Some(dispute);
        let charge = claim.charge;
        self.claims[target.generation as usize] = Some(claim);
        self.tell_charge(target.customer, Some(&old), &charge, "charge.updated", now, By::Stripe)?;
        for kind in ["charge.dispute.created", "charge.dispute.funds_withdrawn"] {
            self.tell_dispute(target, &charge, &dispute, kind, now)?;
        }
        let at = now + self.rng.random_range(20..40) * DAY;
        self.plan(at, Act::DisputeClose, target);
        Ok(())
    }

    pub(super) fn close_dispute(&mut self, target: Target, now: i64) -> io::Result<()> {
        let Some(Claim { charge, dispute: Some(mut dispute), .. }) = self.claims[target.generation as usize].take()
        else {
            return Ok(());
        };
        let won = self.chance(WON);
        dispute.status = if won { "won" } else { "lost" };
        if won {
            dispute.transactions[1] = Some(self.ids.long("txn_"));
            self.tell_dispute(target, &charge, &dispute, "charge.dispute.funds_reinstated", now)?;
        }
        self.tell_dispute(target, &charge, &dispute, "charge.dispute.closed", now)
    }

    fn tell_dispute(
        &mut self,
        target: Target,
        charge: &Charge,
        dispute: &Dispute,
        kind: &str,
        now: i64,
    ) -> io::Result<()> {
        self.tell(target.customer, kind, now, By::Stripe, false, &|out, _, customer, _| {
            shapes::dispute(out, customer, charge, dispute);
        })
    }
}
