"""What tests of several services share: held clocks and real stores of their own."""
