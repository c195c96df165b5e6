"""How often is the regression check wrong? Pools of real launch pairs, and checks drawn from them."""
