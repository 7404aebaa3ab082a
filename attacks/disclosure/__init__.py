"""What regulators ask of anything that is published about people: singling out, linkability, inference.

Opinion 28/2024 of the EDPB names the three for models, as Opinion 05/2014 of its predecessor (WP216) did for data;
Recital 26 of the GDPR and ISO/IEC 27559 ask the same. The protocol is that of Giomi et al., "A Unified Framework for
Quantifying Privacy Risk in Synthetic Data" (PETS 2023): the same attack on users left out tells what is learnt about
people in general from what is learnt about those in the data.
"""
